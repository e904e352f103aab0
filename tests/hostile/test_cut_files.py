"""Files that are cut or written into while a model uses them: an error or no difference, no dead process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.bundle.folder import open_bundle

ROOT = Path(__file__).resolve().parents[2]
LANGUAGE_MODEL = """
import os, sys
import numpy as np
from engine.decoding import CtcBeamDecoder, ngram
from engine.errors import LanguageModelError
path, mapped = sys.argv[1], sys.argv[2] == "mapped"
if mapped:
    ngram.MAX_COPIED_BYTES = 0
labels = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyzäöüß"]
decoder = CtcBeamDecoder(labels, path, unigrams=["haus", "maus"])
noise = np.random.default_rng(0).standard_normal((50, len(labels))).astype(np.float32)
before = decoder.decode(noise, logits=True)
os.truncate(path, 100)
try:
    assert decoder.decode(noise, logits=True) == before and not mapped
    assert decoder.language_model.score("das haus") < 0
    print("no difference")
except LanguageModelError as error:
    assert "was changed after it was loaded" in str(error) and mapped
    try:
        decoder.language_model.score("das haus")
    except LanguageModelError:
        print("refused")
"""


@pytest.mark.parametrize(("kind", "said"), [("copied", "no difference"), ("mapped", "refused")])
def test_a_language_model_that_is_cut_after_loading(tmp_path: Path, kind: str, said: str) -> None:
    path = shutil.copy(open_bundle(None).file("language_model"), tmp_path / "lm.bin")
    done = subprocess.run(
        [sys.executable, "-c", LANGUAGE_MODEL, str(path), kind], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr


def test_a_mapped_model_that_is_written_into_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.decoding import ngram
    from engine.errors import LanguageModelError

    monkeypatch.setattr(ngram, "MAX_COPIED_BYTES", 0)
    source = ROOT / "tests" / "data" / "decoder" / "tiny.trie.bin"
    path = Path(shutil.copy(source, tmp_path / "lm.bin"))
    model = ngram.NgramModel(path)
    assert model.score("a") == ngram.NgramModel(source).score("a")
    new = Path(shutil.copy(source, tmp_path / "new.bin"))
    new.replace(path)  # as a file should be replaced: the old one stays as it is for those who use it
    model.check_unchanged()
    model = ngram.NgramModel(path)
    with path.open("r+b") as file:
        file.seek(300)
        file.write(b"\xff")
    with pytest.raises(LanguageModelError, match="renaming"):
        model.find_words(["a"])


def test_a_model_by_a_relative_path_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    from engine.decoding import CtcBeamDecoder

    data = ROOT / "tests" / "data" / "decoder"
    monkeypatch.chdir(data)
    decoder = CtcBeamDecoder(["<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüß"], "tiny.trie.bin")
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(pickle.dumps(decoder))
    assert again.language_model.path == data / "tiny.trie.bin"


WHOLE_MODEL = """
import os, sys
from pathlib import Path
import engine
folder, clip = Path(sys.argv[1]), sys.argv[2]
model = engine.load(folder, backend="onnxruntime", threads=1)
def results():
    return model.translate_text(["Wie geht es Ihnen heute?"]), model.transcribe(clip).text
before = results()
for path in folder.iterdir():
    os.truncate(path, 10)
assert results() == before and all(before)
print("no difference")
"""


def test_a_bundle_whose_files_are_cut_after_loading(tmp_path: Path) -> None:
    """onnxruntime would map the tables that its graphs share."""
    folder = shutil.copytree(open_bundle(None).path, tmp_path / "bundle")
    clip = ROOT / "examples" / "audio" / "visit.flac"
    command = [sys.executable, "-c", WHOLE_MODEL, str(folder), str(clip)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "no difference"), done.stderr
