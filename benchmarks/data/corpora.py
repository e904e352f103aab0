"""Corpora in the form that their publishers ship: CoVoST 2, Common Voice, Hugging Face audio folders."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.data.arrow import find_shards, read_shards
from benchmarks.data.manifest import (
    JSONL_COLUMNS,
    Row,
    Utterance,
    check_rows,
    parse_tsv,
    read_manifest,
    read_rows,
    read_text,
)
from benchmarks.errors import ManifestError

COMMON_VOICE_COLUMNS = {"path": "path", "sentence": "text_de", "translation": "text_en"}
COVOST_COLUMNS = {"path": "path", "translation": "text_en"}
SPLITS = ("train", "dev", "test")
AUDIO_FOLDER_FILES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
AUDIO_FOLDER_COLUMNS = {
    "file_name": "path",
    "transcription": "text_de",
    "sentence": "text_de",
    "text": "text_de",
    "translation": "text_en",
}


def read_data(
    data: Path, clips: Path | None = None, split: str = "test", limit: int | None = None
) -> list[Utterance]:
    """Read whatever `--data` names.

    Args:
        data: a manifest; the TSV of CoVoST 2 or Common Voice (with clips); or an audio folder.
        clips: the `clips` folder of Common Voice.
        split: of CoVoST 2, where its TSV holds all of them.
        limit: keep the first so many utterances.
    Raises:
        ManifestError: lists every problem.
    """
    if data.is_dir():
        return read_audio_folder(data, split, limit)
    if clips is not None:
        return read_covost(data, clips, split, limit)
    return read_manifest(data, limit)


def read_covost(path: Path, clips: Path, split: str = "test", limit: int | None = None) -> list[Utterance]:
    """Read CoVoST 2 German-English, or plain Common Voice, beside its clips.

    Args:
        path: `covost_v2.de_en.tsv` as published (path, translation, split; the German sentences
            come from `validated.tsv` beside the clips folder), a split made by
            get_covost_splits.py (path, sentence, translation, client_id), or a TSV of Common Voice.
        clips: the folder of the mp3 files.
        split: train, dev or test; `train` includes `train_covost`, as in the official script.
        limit: keep the first so many utterances.
    Raises:
        ManifestError: lists every problem.
    """
    text = read_text(path)
    header = text.split("\n", 1)[0].rstrip("\r").split("\t")
    if "sentence" in header or "translation" not in header:
        rows, problems = parse_tsv(_unescape(text), COMMON_VOICE_COLUMNS)
        rows = _of_split(rows, split) if "split" in header else rows
    else:
        rows, problems = _join_validated(path, clips, split, text)
    return check_rows(path, [_in_folder(row, clips) for row in rows], problems, limit)


def _join_validated(path: Path, clips: Path, split: str, text: str) -> tuple[list[Row], list[str]]:
    """Attach the German sentences to the published translations, by file name."""
    validated = clips.resolve().parent / "validated.tsv"
    german, problems = parse_tsv(_unescape(read_text(validated)), COMMON_VOICE_COLUMNS)
    rows, own = parse_tsv(_unescape(text), COVOST_COLUMNS)
    problems = [f"{validated}: {problem}" for problem in problems]
    # The German side is not in this file: its absence from the header is what brought us here.
    problems += [problem for problem in own if "'text_de'" not in problem]
    sentences = {row.cells.get("path", ""): row.cells for row in german}
    joined = [
        Row(row.line, {**sentences[name], **row.cells})
        for row in _of_split(rows, split)
        if (name := row.cells.get("path", "")) in sentences
    ]
    if rows and not joined:
        problems.append(f"no clip of split {split!r} is listed in {validated}")
    return joined, problems


def _of_split(rows: Sequence[Row], split: str) -> list[Row]:
    wanted = {split, "train_covost"} if split == "train" else {split}
    return [row for row in rows if row.cells.get("split") in wanted]


def _unescape(text: str) -> str:
    """The official scripts write with a backslash before special characters and no quotes."""
    return text.replace('\\"', '"') if "\\" in text else text


def _in_folder(row: Row, clips: Path) -> Row:
    name = row.cells.get("path", "").strip()
    path = str((clips / name).resolve()) if name else ""
    return Row(row.line, {**row.cells, "id": name, "path": path})


def read_audio_folder(folder: Path, split: str = "test", limit: int | None = None) -> list[Utterance]:
    """Read a folder of Hugging Face `datasets`.

    Args:
        folder: metadata.csv, .tsv or .jsonl beside audio files, or a dataset in Arrow or Parquet files.
            The columns are file_name or audio; transcription, sentence or text; and perhaps translation.
        split: of a dataset in Arrow or Parquet files.
        limit: keep the first so many utterances.
    Raises:
        ManifestError: lists every problem. DependencyError: pyarrow is missing.
    """
    found = [folder / name for name in AUDIO_FOLDER_FILES if (folder / name).is_file()]
    if not found:
        if not find_shards(folder, split):
            raise ManifestError(
                folder,
                [f"no {' or '.join(AUDIO_FOLDER_FILES)}, nor Arrow or Parquet files of split {split!r}"],
            )
        rows, problems = read_shards(folder, split, AUDIO_FOLDER_COLUMNS)
        return check_rows(folder, rows, problems, limit)
    path = found[0]
    if path.suffix == ".jsonl":
        rows, problems = read_rows(path)
        renamed = [Row(row.line, _rename(row.cells)) for row in rows]
        names = set(JSONL_COLUMNS)
        problems = [p for p in problems if not any(p.endswith(f"no key {name!r}") for name in names)]
        return check_rows(path, renamed, problems, limit)
    text = read_text(path)
    rows, problems = parse_tsv(_csv_to_tsv(text) if path.suffix == ".csv" else text, AUDIO_FOLDER_COLUMNS)
    return check_rows(path, rows, problems, limit)


def _rename(cells: Mapping[str, str]) -> dict[str, str]:
    return {AUDIO_FOLDER_COLUMNS.get(name, name): value for name, value in cells.items()}


def _csv_to_tsv(text: str) -> str:
    rows = csv.reader(io.StringIO(text))
    return "\n".join("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row) for row in rows)
