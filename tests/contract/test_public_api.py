"""The public names: complete, sorted, loaded late; the jobs take the same keywords; a user's types hold."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine.pipeline import SpeechTranslator

ROOT = Path(__file__).resolve().parents[2]
JOBS = {
    "transcribe": {"sample_rate", "hotwords", "options", "progress", "partial", "cancel"},
    "translate": {"sample_rate", "hotwords", "options", "progress", "partial", "cancel"},
    "transcribe_batch": {"sample_rate", "hotwords", "options", "progress", "cancel"},
    "translate_batch": {"sample_rate", "hotwords", "options", "progress", "cancel"},
    "open_stream": {"task", "hotwords", "options", "endpoint", "cancel"},
    "stream": {"sample_rate", "hotwords", "options", "progress", "cancel"},
    "translate_text": {"options", "progress", "cancel"},
    "translate_transcript": {"options", "progress", "cancel"},
}


def test_every_public_name_is_there_and_the_list_is_sorted() -> None:
    assert engine.__all__ == sorted(engine.__all__)
    assert set(engine.__all__) <= set(dir(engine))
    for name in engine.__all__:
        assert getattr(engine, name) is not None


def test_every_error_can_be_imported_from_the_package() -> None:
    tree = ast.parse((ROOT / "engine" / "errors.py").read_text(encoding="utf-8"))
    errors = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert errors <= set(engine.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        engine.no_such_name  # noqa: B018


def test_importing_the_package_loads_nothing_that_computes() -> None:
    code = "import engine, sys; print(*sys.modules); engine.load; assert 'numba' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "numba", "onnxruntime", "soundfile", "engine.pipeline"} & set(done.stdout.split())


@pytest.mark.parametrize("job", sorted(JOBS))
def test_the_jobs_take_the_same_keywords(job: str) -> None:
    parameters = inspect.signature(getattr(SpeechTranslator, job)).parameters
    assert set(list(parameters)[2:]) == JOBS[job]
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values())


@pytest.mark.parametrize("job", sorted(JOBS))
def test_an_unknown_keyword_is_refused(job: str) -> None:
    translator = SpeechTranslator.__new__(SpeechTranslator)  # the models play no part
    with pytest.raises(TypeError, match="beam_size"):
        getattr(translator, job)([], beam_size=3)
