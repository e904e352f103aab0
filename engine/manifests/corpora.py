"""CoVoST 2 German-English and Common Voice, as their publishers ship them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.manifests.rows import ID, PATH_COLUMNS, TRANSLATION_COLUMNS, Cells
from engine.manifests.tables import Found, header_of, parse_file
from engine.manifests.text_file import read_text


def read_corpus(path: Path, text: str, clips: Path, split: str) -> Found:
    """Read the TSV of CoVoST 2 or Common Voice beside its clips.

    Args:
        path: `covost_v2.de_en.tsv` as published (path, translation, split; the German sentences come from
            `validated.tsv` beside the clips folder), a split made by get_covost_splits.py (path, sentence,
            translation, client_id), or a TSV of Common Voice.
        text: of that file.
        clips: the folder of the mp3 files.
        split: train, dev or test; `train` includes `train_covost`, as in the official script.
    Returns:
        The lines, with the file's name as their id, and problems.
    Raises:
        TextFileError: validated.tsv is needed and cannot be read.
    """
    header = header_of(text)
    if "sentence" in header or "translation" not in header:
        lines, problems = parse_file(path, _unescape(text))
        lines = _of_split(lines, split) if "split" in header else lines
    else:
        lines, problems = _join_validated(path, clips, split, text)
    return [Cells(line.place, {**line.values, ID: line.values.get("path", "")}) for line in lines], problems


def _join_validated(path: Path, clips: Path, split: str, text: str) -> Found:
    """Attach the German sentences to the published translations, by file name."""
    validated = clips.resolve().parent / "validated.tsv"
    german, problems = parse_file(validated, _unescape(read_text(validated)))
    lines, own = parse_file(path, _unescape(text), (PATH_COLUMNS, TRANSLATION_COLUMNS))
    sentences = {line.values.get("path"): line.values for line in german}
    joined = [
        Cells(line.place, {**sentences[name], **line.values})
        for line in _of_split(lines, split)
        if (name := line.values.get("path")) in sentences
    ]
    problems += own
    if lines and not joined and not problems:
        problems.append(f"{validated}: no clip of split {split!r} is listed there")
    return joined, problems


def _of_split(lines: Sequence[Cells], split: str) -> list[Cells]:
    wanted = {split, "train_covost"} if split == "train" else {split}
    return [line for line in lines if line.values.get("split") in wanted]


def _unescape(text: str) -> str:
    """The official scripts write with a backslash before special characters and no quotes."""
    return text.replace('\\"', '"') if "\\" in text else text
