"""Bundles that were changed, cut, forged or never were bundles."""

import json
import os
from pathlib import Path

import pytest

from engine.bundle.folder import open_bundle, write_bundle
from engine.errors import (
    BundleError,
    BundleIntegrityError,
    BundleNotFoundError,
    BundleSchemaError,
    EngineError,
    ModelCapabilityError,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model.bin"
    model.write_bytes(os.urandom(1000))
    vocabulary = tmp_path / "v.json"
    vocabulary.write_text(json.dumps({"<pad>": 0, "|": 1, "a": 2}))
    files = {"acoustic": model, "vocabulary": vocabulary}
    return write_bundle(tmp_path / "bundle", name="test", licence="CC0", files=files, card="# test")


def edit_manifest(folder: Path, change) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def assert_says_got_want_fix(error: EngineError) -> None:
    assert error.got and error.want and error.fix
    assert "\n" not in str(error)


def test_what_was_written_opens(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.vocabulary == ("<pad>", "|", "a")
    assert len(bundle.read("acoustic")) == 1000


def test_a_changed_byte_is_refused(folder: Path) -> None:
    data = bytearray((folder / "acoustic.onnx").read_bytes())
    data[500] ^= 1
    (folder / "acoustic.onnx").write_bytes(data)
    with pytest.raises(BundleIntegrityError, match="SHA-256") as caught:
        open_bundle(folder)
    assert_says_got_want_fix(caught.value)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    (folder / "acoustic.onnx").write_bytes(b"short")
    with pytest.raises(BundleIntegrityError):
        open_bundle(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "acoustic.onnx").unlink()
    with pytest.raises(BundleNotFoundError, match=r"acoustic\.onnx") as caught:
        open_bundle(folder)
    assert isinstance(caught.value, FileNotFoundError)
    assert_says_got_want_fix(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "/etc/passwd",
        "sub/acoustic.onnx",
        "..",
        ".",
        "",
        "a\x00b",
        "..\\x",
        "manifest.json",
        "a b",
        "é",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(folder: Path, path: str) -> None:
    edit_manifest(folder, lambda m: m["files"][0].update(path=path))
    with pytest.raises(BundleIntegrityError) as caught:
        open_bundle(folder)
    assert_says_got_want_fix(caught.value)


def test_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "acoustic.onnx").rename(tmp_path / "elsewhere")
    (folder / "acoustic.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleIntegrityError, match="link"):
        open_bundle(folder)


@pytest.mark.parametrize("version", [0, 2, 99, "1", None])
def test_an_unknown_schema_version_is_refused(folder: Path, version: object) -> None:
    edit_manifest(folder, lambda m: m.update(schema_version=version))
    with pytest.raises(BundleSchemaError, match="schema_version") as caught:
        open_bundle(folder)
    assert_says_got_want_fix(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("name"),
        lambda m: m.update(files="all"),
        lambda m: m.update(surprise=1),
        lambda m: m["files"][0].update(bytes=-1),
        lambda m: m["files"][0].update(sha256="zz"),
        lambda m: m["files"].append(m["files"][0]),
    ],
)
def test_a_manifest_outside_the_schema_is_refused(folder: Path, change) -> None:
    edit_manifest(folder, change)
    with pytest.raises(BundleSchemaError):
        open_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_no_json_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleSchemaError):
        open_bundle(folder)


def test_a_manifest_too_large_to_be_one_is_refused_unread(folder: Path) -> None:
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(BundleSchemaError, match="4 MiB"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["nothing", "/nowhere/at/all", "no.onnx"])
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(BundleNotFoundError) as caught:
        open_bundle(name)
    assert_says_got_want_fix(caught.value)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="manifest"):
        open_bundle(tmp_path)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(BundleError, match="is a file"):
        open_bundle(path)


def test_a_bare_model_without_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "w2v.onnx"
    path.write_bytes(b"onnx")
    with pytest.raises(BundleNotFoundError, match=r"vocab\.json") as caught:
        open_bundle(path)
    assert_says_got_want_fix(caught.value)


@pytest.mark.parametrize("vocabulary", ["[]", "{}", '{"a": 1}', '{"a": 0, "b": 0}', '{"a": "0"}', "nonsense"])
def test_a_vocabulary_that_is_none(folder: Path, vocabulary: str) -> None:
    model = folder / "w2v.onnx"
    model.write_bytes(b"onnx")
    (folder / "vocab.json").write_text(vocabulary)
    with pytest.raises(BundleSchemaError, match="vocab"):
        _ = open_bundle(model).vocabulary


def test_a_role_that_is_absent_is_named(folder: Path) -> None:
    with pytest.raises(ModelCapabilityError, match="language_model") as caught:
        open_bundle(folder).file("language_model")
    assert_says_got_want_fix(caught.value)


def test_writing_reports_every_problem_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "new"
    files = {"acoustic": tmp_path / "absent", "soup": tmp_path / "absent"}
    with pytest.raises(BundleError, match=r"soup.*acoustic"):
        write_bundle(target, name="x", licence="CC0", files=files, card="")
    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_a_bundle_but_never_another_folder(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.bin"
    write_bundle(folder, name="second", licence="CC0", files={"acoustic": source}, card="")
    assert open_bundle(folder).name == "second"
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_text("precious")
    with pytest.raises(BundleError, match="not a bundle"):
        write_bundle(photos, name="x", licence="CC0", files={"acoustic": source}, card="")
    assert (photos / "holiday.jpg").read_text() == "precious"


def test_a_folder_of_data_with_a_manifest_of_its_own_is_no_bundle(folder: Path, tmp_path: Path) -> None:
    (folder / "clip.wav").write_bytes(b"precious")
    with pytest.raises(BundleError, match=r"not a bundle.*clip\.wav"):
        write_bundle(folder, name="x", licence="CC0", files={"acoustic": tmp_path / "model.bin"}, card="")
    assert (folder / "clip.wav").read_bytes() == b"precious"


def test_an_empty_folder_may_become_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    (tmp_path / "new").mkdir()
    write_bundle(
        tmp_path / "new", name="x", licence="CC0", files={"acoustic": tmp_path / "model.bin"}, card=""
    )
    assert open_bundle(tmp_path / "new").name == "x"


def test_a_failed_write_leaves_the_old_bundle(folder: Path, tmp_path: Path, monkeypatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.bundle.folder.shutil.copyfile", full_disk)
    with pytest.raises(OSError, match="space"):
        write_bundle(folder, name="x", licence="CC0", files={"acoustic": tmp_path / "model.bin"}, card="")
    assert open_bundle(folder).name == "test"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_bare_model_takes_its_settings_from_the_files_beside_it(folder: Path) -> None:
    (folder / "w2v.onnx").write_bytes(b"onnx")
    (folder / "config.json").write_text(json.dumps({"conv_stride": [5, 2, 2], "pad_token_id": 0}))
    extractor = {"sampling_rate": 8000, "do_normalize": False}
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": extractor}))
    acoustic = open_bundle(folder / "w2v.onnx").manifest.acoustic
    assert (acoustic.samples_per_frame, acoustic.features.sample_rate, acoustic.features.normalize) == (
        20,
        8000,
        False,
    )
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"sampling_rate": 16000, "do_normalize": True})
    )
    assert open_bundle(folder / "w2v.onnx").manifest.acoustic.features.sample_rate == 16000
