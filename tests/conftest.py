"""The embedded bundle, loaded once for all tests that run the real thing."""

import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="session")
def translator():
    """The embedded default bundle."""
    import engine

    return engine.load(threads=2)


@pytest.fixture(scope="session")
def examples() -> list[dict[str, str]]:
    """The synthetic example recordings: path (absolute), text_de, text_en."""
    with (EXAMPLES / "manifest.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [{**row, "path": str(EXAMPLES / row["path"])} for row in rows]
