"""Any manifest, corpus or dataset to rows; everything that is wrong with it in one error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from engine.errors import ManifestError, TextFileError
from engine.manifests.corpora import read_corpus
from engine.manifests.datasets import find_shards, read_shards
from engine.manifests.parts import check_parts
from engine.manifests.rows import Cells, ManifestRow, Scan, first_of, to_row
from engine.manifests.tables import parse_file
from engine.manifests.text_file import read_text

METADATA: Final = ("metadata.csv", "metadata.tsv", "metadata.jsonl")


def read_manifest(source: Path | str, *, clips: Path | None = None, split: str = "test") -> list[ManifestRow]:
    """Read a manifest, a corpus in its publisher's layout, or a dataset.

    Args:
        source: a TSV with a header, CSV, or JSONL in the manner of NeMo and lhotse (by the suffix .jsonl,
            .json or .ndjson), with the columns of engine.manifests.rows; with clips the TSV of CoVoST 2 or
            Common Voice; or a folder that holds manifest.tsv, manifest.jsonl, Common Voice's SPLIT.tsv
            with clips/, metadata.csv, .tsv or .jsonl (an audio folder of Hugging Face `datasets`), or the
            *.arrow or *.parquet files of a dataset on disk.
        clips: the folder of Common Voice's audio.
        split: of a folder or of CoVoST 2's own TSV: train, dev or test.
    Returns:
        All rows in order, at least one. Paths are relative to the manifest. A text may be empty: nothing is
        said. Whether audio files exist is not checked, but parts that end beyond an existing file are.
    Raises:
        ManifestError: lists every problem, with file and line.
        DependencyError: a dataset's file, and pyarrow is missing.
    """
    scan = scan_manifest(source, clips=clips, split=split)
    if scan.problems:
        raise ManifestError(source, scan.problems)
    return list(scan.rows)


def scan_manifest(source: Path | str, *, clips: Path | None = None, split: str = "test") -> Scan:
    """Read as read_manifest does, but return the problems beside the rows that have none.

    Raises:
        DependencyError: a dataset's file, and pyarrow is missing.
    """
    path = Path(source)
    try:
        place, folder, lines, problems = _read(path, clips, split)
    except TextFileError as error:  # the encoding of a manifest, or of a file that it needs
        return Scan(path, [], [f"{error.got}; want {error.want}; {error.fix}"])
    rows: list[ManifestRow] = []
    for line in lines:
        row, wrong = to_row(line, folder)
        rows += [row] if row is not None else []
        problems += wrong
    rows, wrong = check_parts(rows)
    problems += wrong
    if not rows and not problems:
        problems.append(f"{place}: no lines")
    return Scan(path, rows, problems)


def _read(path: Path, clips: Path | None, split: str) -> tuple[Path, Path, Sequence[Cells], list[str]]:
    """The file that was read, where its paths begin, its lines, and problems."""
    if path.is_dir():
        found = next((name for name in _candidates(path, split) if name.is_file()), None)
        if found is None:
            return path, path, *_read_dataset(path, split)
        path = found
    text = read_text(path)
    if clips is not None:
        return path, clips.resolve(), *read_corpus(path, text, clips, split)
    lines, problems = parse_file(path, text)
    own_clips = path.parent / "clips"  # Common Voice has its audio there
    is_common_voice = bool(lines) and first_of(("sentence",), lines[0].values) and own_clips.is_dir()
    return path, own_clips if is_common_voice else path.parent, lines, problems


def _candidates(folder: Path, split: str) -> list[Path]:
    names = ("manifest.tsv", "manifest.jsonl", f"{split}.tsv", *METADATA)
    return [folder / name for name in names] + [folder / split / name for name in METADATA]


def _read_dataset(folder: Path, split: str) -> tuple[list[Cells], list[str]]:
    shards, splits = find_shards(folder, split)
    if shards:
        return read_shards(shards)
    if splits:
        return [], [f"{folder}: no Arrow or Parquet files of split {split!r}; it has {', '.join(splits)}"]
    names = [str(path.relative_to(folder)) for path in _candidates(folder, split)]
    return [], [f"{folder}: no {', '.join(names)}, nor Arrow or Parquet files in this folder"]
