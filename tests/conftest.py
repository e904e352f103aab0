"""The embedded bundle, loaded once for all tests that run the real thing; which levels a run has tested."""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from engine.kernels.vector import levels

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
LONG = (  # files that take longest, in this order: one that begins last would leave the other workers idle
    "test_precompiled", "test_levels_equal", "test_docs", "test_hostile_cli", "test_training_memory",
    "test_streams_model", "test_export_interrupted", "test_pipeline", "test_bench_default",
    "test_mt_training", "test_training_two_pass", "test_training_from_whisper",
    "test_training_whisper_wav2vec2", "test_training_failures", "test_training_asr", "test_training_align",
    "test_training_scale", "test_training_loop", "test_training_conformer", "test_joint_search",
    "test_decoding_beam", "test_cut_files", "test_fuzz", "test_installed_types", "test_interrupts",
    "test_working_folder", "test_add_layout", "test_export_pair_safe", "test_export_conformer",
    "test_encoder_kernels",
)  # fmt: skip
# No limits by the clock: on a machine with other work they fail by chance. pytest-timeout ends what hangs.
settings.register_profile("engine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("engine")
NO_VECTORS = "no vector kernels at this instruction set level"


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


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A test that leaves the root logger quieter would silence what later tests of this worker expect."""
    root = logging.getLogger()
    before = root.level, root.manager.disable
    yield
    after = root.level, root.manager.disable
    root.setLevel(before[0])
    logging.disable(before[1])
    assert after == before, "the code under test changed the whole process's level of logging"


@pytest.fixture(scope="module")
def short_cases() -> Iterator[None]:
    """Exports are verified on signals of 1 to 6 seconds: on 20, a tiny model shows nothing more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.verification.audio_cases.BUCKETS_S", (1.0, 3.0, 6.0))
        yield


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With -m levels, files that do not name the marker are not even imported: torch takes seconds."""
    if collection_path.suffix != ".py" or not config.option.markexpr.startswith("levels"):
        return None
    return "mark.levels" not in collection_path.read_text(encoding="utf-8") or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; `make test` has the workers take them in this order."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line: the level of this run, the processor's others, and those that it lacks."""
    here = levels.active().name
    others = [name for name in (*levels.available(), levels.NONE) if name != here]
    lacking = [name for name in levels.LEVELS if name not in levels.available()]
    said = [f"ran {here}", f"not in this run: {', '.join(others)}"] if others else [f"ran {here}"]
    if lacking:
        said.append(f"not on this processor: {', '.join(lacking)}")
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    n_skipped = sum(NO_VECTORS in reason for reason in skipped)
    if n_skipped:
        said.append(f"{n_skipped} tests or files of tests skipped: {NO_VECTORS}")
    terminalreporter.write_line(f"levels: {'; '.join(said)}")
