"""A shard's files: killed at any point and run again, they have the bytes of a run that nobody killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import OptionError, OutputError
from engine.jobs import shard_files
from engine.jobs.shard_files import ShardFiles
from engine.jobs.shard_records import Failure, Header, check_others, count_lines, read_header
from engine.jobs.shards import Shard

SHARD = Shard(2, 3)
IDS = [f"id {i}: ä\u2028" for i in range(6)]
BAD = IDS[3]
HEADER = Header(
    shard=2,
    shards=3,
    rows=6,
    total_rows=20,
    plan="p",
    model="m@1",
    engine="0",
    options={"search": {"beams": 8}},
)


def line_of(id: str) -> bytes:
    return msgspec.json.encode({"id": id, "text": "ja " * (len(id) % 3), "words": []})


def run(folder: Path, header: Header = HEADER, failing: str | None = BAD) -> int:
    """What a job does: lines that are missing, in order. Returns how many it had to make."""
    made = 0
    with ShardFiles(folder, SHARD, header) as files:
        for id in IDS:
            if id not in files and id != failing:
                files.add(id, line_of(id))
                made += 1
        failures = [Failure(id=failing, audio_filepath="x.wav", error="AudioDecodeError", message="no")]
        files.finish(IDS, failures if failing else [])
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("wanted")
    run(folder)
    return contents(folder)


def test_a_run_leaves_its_lines_in_order_its_failures_and_its_status(wanted: dict[str, bytes]) -> None:
    stem = "shard-00002-of-00003"
    assert sorted(wanted) == [f"{stem}.failures.jsonl", f"{stem}.jsonl", f"{stem}.status.json"]
    assert wanted[f"{stem}.jsonl"].splitlines() == [line_of(id) for id in IDS if id != BAD]
    assert msgspec.json.decode(wanted[f"{stem}.failures.jsonl"])["id"] == BAD


def in_child(work: Callable[[], object]) -> int:
    """Run in a process of its own; the signal that ended it, 0 for a good end."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying(at: int) -> Callable[[int], None]:
    """An fsync that is the last thing its process does, the at-th time."""
    count = 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return fsync


def test_killed_at_any_step_and_run_again_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, bytes]
) -> None:
    """Steps are the syncs to disk: the header, each line, and each file and folder of the end."""
    at, made = 1, []
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying(at))
            ended = in_child(lambda folder=folder: run(folder))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        made.append(run(folder))
        assert contents(folder) == wanted
        at += 1
    assert at > 12
    assert made == sorted(made, reverse=True) and made[0] == 5 and made[-1] == 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_file_cut_off_at_any_byte_loses_only_the_line_that_was_cut(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    partial = folder / f"{SHARD.stem}.partial.jsonl"
    first = msgspec.json.encode({"header": HEADER}) + b"\n"
    whole = first + b"".join(line_of(id) + b"\n" for id in IDS[:3])
    kept = data.draw(st.integers(0, len(whole)))
    partial.write_bytes(whole[:kept] + data.draw(st.sampled_from([b"", b"\0\0\0", b"\xff{"])))
    n_kept = max(0, whole[:kept].count(b"\n") - 1)
    assert run(folder) == 5 - n_kept
    assert contents(folder) == wanted


def test_what_failed_is_tried_again_and_comes_to_its_place(tmp_path: Path) -> None:
    assert run(tmp_path) == 5
    assert run(tmp_path, failing=None) == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".jsonl"]
    result = tmp_path / f"{SHARD.stem}.jsonl"
    assert result.read_bytes().splitlines() == [line_of(id) for id in IDS]
    before = contents(tmp_path)
    assert run(tmp_path, failing=None) == 0
    assert contents(tmp_path) == before


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plan": "q"}, "plan 'p', now 'q'"),
        ({"model": "m@2"}, "model 'm@1', now 'm@2'"),
        ({"options": {"search": {"beams": 16}}}, "options.search.beams 8, now 16"),
        ({"options": {"task": "x"}}, "options.task None, now 'x'"),
        ({"engine": "1"}, "engine '0', now '1'"),
    ],
)
def test_results_of_other_settings_are_never_mixed(
    tmp_path: Path, state: str, change: dict, said: str
) -> None:
    if state == "finished":
        run(tmp_path)
    else:
        with ShardFiles(tmp_path, SHARD, HEADER) as files:
            files.add(IDS[0], line_of(IDS[0]))
    before = contents(tmp_path)
    other = msgspec.structs.replace(HEADER, **change)
    with pytest.raises(OptionError, match="other settings") as caught:
        run(tmp_path, other)
    assert said in str(caught.value) and "another --output_dir" in caught.value.fix
    assert contents(tmp_path) == before
    with pytest.raises(OptionError, match="other settings"):
        check_others(tmp_path, msgspec.structs.replace(other, shard=1))
    check_others(tmp_path, msgspec.structs.replace(HEADER, shard=1, rows=7))


def test_a_run_that_ended_before_its_first_line_is_in_nobodys_way(
    tmp_path: Path, wanted: dict[str, bytes]
) -> None:
    with ShardFiles(tmp_path, SHARD, msgspec.structs.replace(HEADER, plan="q")):
        pass
    assert run(tmp_path) == 5
    assert contents(tmp_path) == wanted


def test_two_processes_never_work_on_one_shard(tmp_path: Path, wanted: dict[str, bytes]) -> None:
    with ShardFiles(tmp_path, SHARD, HEADER) as files:
        files.add(IDS[0], line_of(IDS[0]))
        with pytest.raises(OptionError, match="another process"):
            run(tmp_path)
        files.add(IDS[1], line_of(IDS[1]))
    assert run(tmp_path) == 3
    assert contents(tmp_path) == wanted


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    partial, result = tmp_path / f"{SHARD.stem}.partial.jsonl", tmp_path / f"{SHARD.stem}.jsonl"
    partial.write_text('{"my": "own"}\n')
    with pytest.raises(OptionError, match="has no header"):
        run(tmp_path)
    assert partial.read_text() == '{"my": "own"}\n'
    partial.unlink()
    result.write_text('{"my": "own"}\n')
    with pytest.raises(OptionError, match=r"without its shard-00002-of-00003\.status\.json"):
        run(tmp_path)
    assert contents(tmp_path) == {result.name: b'{"my": "own"}\n'}


def test_a_full_disk_is_said_and_costs_no_line_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, bytes]
) -> None:
    def full(path: Path, lines: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shard_files, "write_whole", full)
        with pytest.raises(OutputError, match="No space left") as caught:
            run(tmp_path)
    assert "run the same command again" in caught.value.fix
    partial = tmp_path / f"{SHARD.stem}.partial.jsonl"
    assert count_lines(partial) == 5 and read_header(partial) == HEADER
    assert run(tmp_path) == 0
    assert contents(tmp_path) == wanted


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        run(tmp_path / "missing")
