"""Exports that cannot finish: one clear error, the old bundle whole, nothing half-written beside it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")

from engine.bundle import folder as engine_bundle  # noqa: E402
from engine.bundle.folder import open_bundle  # noqa: E402
from engine.errors import BundleError  # noqa: E402
from export.acoustic.pretrained import export_pretrained, load_pretrained  # noqa: E402
from export.acoustic.source import ExportOptions  # noqa: E402
from export.acoustic.wav2vec2 import build_wav2vec2  # noqa: E402
from export.cli import main  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.verification.verify import onnx_run  # noqa: E402
from tests.parity.test_export_wav2vec2 import make_model, save_checkpoint  # noqa: E402

pytestmark = pytest.mark.usefixtures("short_cases")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of its own, so that leftovers show."""
    (tmp_path / "bundles").mkdir()
    return tmp_path / "bundles" / "mine"


def export_fp32(checkpoint: Path, out: Path) -> None:
    export_pretrained(str(checkpoint), out, ExportOptions(precision="fp32"))


def no_space_after(monkeypatch: pytest.MonkeyPatch, n_files: int) -> None:
    """Copying fails with ENOSPC in the middle of a file."""
    copied: list[Any] = []
    copy = shutil.copyfile

    def copy_some(source: Any, target: Any, **kwargs: Any) -> Any:
        copied.append(target)
        if len(copied) <= n_files:
            return copy(source, target, **kwargs)
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(engine_bundle.shutil, "copyfile", copy_some)


@pytest.mark.parametrize("n_files", [0, 1])
def test_full_disk_is_one_error_and_leaves_nothing(
    checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch, n_files: int
) -> None:
    no_space_after(monkeypatch, n_files)
    with pytest.raises(ExportError, match=r"could not be written .*No space left.*free space"):
        export_fp32(checkpoint, out)
    assert list(out.parent.iterdir()) == []


def test_full_disk_leaves_the_bundle_that_was_there(
    checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export_fp32(checkpoint, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    no_space_after(monkeypatch, 1)
    assert main(["wav2vec2", str(checkpoint), str(out), "--precision", "fp32"]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("engine-export: ")
    assert "No space left" in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in out.parent.iterdir()] == ["mine"]
    open_bundle(out)


def test_a_file_size_limit_of_the_system_is_the_same_error(
    checkpoint: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    before, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        status = main(["wav2vec2", str(checkpoint), str(out), "--precision", "fp32"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, action)
    errors = capsys.readouterr().err
    assert status == 1
    assert "could not be written" in errors
    assert "Traceback" not in errors
    assert list(out.parent.iterdir()) == []


def test_interruption_between_two_files_leaves_nothing(
    checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_bundle, "_open_folder", interrupt)  # the last check before the rename
    assert main(["wav2vec2", str(checkpoint), str(out), "--precision", "fp32"]) == 130
    assert capsys.readouterr().err.strip().endswith("engine-export: interrupted; nothing was written")
    assert list(out.parent.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_interrupt_from_the_keyboard_ends_an_export_at_once(
    checkpoint: Path, out: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "recordings.tsv"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "export", "wav2vec2", str(checkpoint), str(out)]
    process = subprocess.Popen(
        [*command, "--verify-data", str(pipe)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )

    def release() -> None:  # whoever waits for a reader that has ended
        process.wait()
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))

    threading.Thread(target=release, daemon=True).start()
    writer = os.open(pipe, os.O_WRONLY)  # returns once the export has opened the list of recordings
    try:
        process.send_signal(signal.SIGINT)  # it waits there: nothing is written and the pipe stays open
        _, errors = process.communicate(timeout=60)
    finally:
        os.close(writer)
        process.kill()
    assert process.returncode == 130, errors
    assert "interrupted; nothing was written" in errors
    assert "Traceback" not in errors
    assert list(out.parent.iterdir()) == []


def test_interrupt_while_blocks_are_measured_leaves_nothing(
    checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.acoustic import export as acoustic

    measure = acoustic.measure_sensitivity

    def interrupted(*arguments: Any) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return measure(*arguments)

    monkeypatch.setattr(acoustic, "measure_sensitivity", interrupted)
    assert main(["wav2vec2", str(checkpoint), str(out)]) == 130
    assert capsys.readouterr().err.strip().endswith("engine-export: interrupted; nothing was written")
    assert list(out.parent.iterdir()) == []


def test_operator_that_the_runtime_lacks_is_named() -> None:
    graph = build_wav2vec2(make_model("wav2vec2-base"))[0]
    graph.graph.node[5].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match=r"cannot load the graph .*NoSuchOperator.*fix: upgrade"):
        onnx_run(graph)


def test_pretrained_weights_without_a_head_are_refused(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(checkpoint / "model.safetensors")
    headless = {name: tensor for name, tensor in tensors.items() if not name.startswith("lm_head")}
    save_file(headless, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ExportError, match=r"lacks 2 weights of Wav2Vec2ForCTC, lm_head\.bias, lm_head\.weight"
    ):
        load_pretrained(str(checkpoint))


def test_head_of_another_size_than_the_configuration_says_is_refused(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(checkpoint / "model.safetensors")
    tensors["lm_head.weight"] = torch.zeros(5, 32)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match="cannot be loaded"):
        load_pretrained(str(checkpoint))


def test_an_occupied_folder_is_refused_before_the_work(
    checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out.mkdir()
    (out / "manifest.json").write_text("a corpus'")
    (out / "clip.wav").write_bytes(b"precious")
    monkeypatch.setattr("export.acoustic.export.build_cases", lambda *_: pytest.fail("the work began"))
    assert main(["wav2vec2", str(checkpoint), str(out), "--precision", "fp32"]) == 1
    assert "is not a bundle ('clip.wav')" in capsys.readouterr().err
    assert (out / "clip.wav").read_bytes() == b"precious"


@pytest.mark.parametrize("place", ["file/mine", "file/below/mine", "/proc/mine", "/proc/below/mine"])
def test_a_place_that_takes_no_files_is_refused_before_any_work(
    checkpoint: Path, out: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    (out.parent / "file").write_text("")
    monkeypatch.setattr("export.acoustic.export.build_cases", lambda *_: pytest.fail("work was done"))
    target = out.parent / place
    with pytest.raises(BundleError, match=r"cannot be written \(.*\).*name another one"):
        export_fp32(checkpoint, target)
    assert [path.name for path in out.parent.iterdir()] == ["file"]


def test_a_new_folder_below_new_folders_is_made(checkpoint: Path, out: Path) -> None:
    export_fp32(checkpoint, out / "a" / "b")
    assert open_bundle(out / "a" / "b").manifest.acoustic is not None
