"""The translator by the engine's own kernels against the float32 graphs."""

from __future__ import annotations

import numpy as np
import pytest

from engine.bundle.folder import open_bundle
from engine.errors import CancelledError
from engine.kernels.vector.levels import has_vector_kernels
from engine.runtime.cancel import CancelToken
from engine.translation.search import EncoderDecoder
from engine.translation.tokenizer import load_tokenizer
from engine.translation.translator import Translator
from engine.types import RuntimeOptions
from tests.reference.tiny_marian import SENTENCES, bundle_folder, exported

pytest.importorskip("torch")
pytest.importorskip("transformers")
from export.translation.runners import open_kernels, open_sessions

pytestmark = [
    pytest.mark.levels,
    pytest.mark.skipif(not has_vector_kernels(), reason="no vector kernels at this instruction set level"),
]
WIDE = {"d_model": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128, "init_std": 0.1}  # fmt: skip
VARIANTS = [
    {"activation": "relu", **WIDE},
    {"activation": "swish", "logits_bias": True, "seed": 1, **WIDE},
    {"activation": "gelu", "seed": 2, **WIDE, "encoder_layers": 3, "decoder_layers": 1},
    {"activation": "relu", "seed": 3, "scale_embedding": False, **WIDE},
]  # fmt: skip


def sources(**variant: object) -> list[list[int]]:
    folder = bundle_folder("int8", **variant)
    return [[*ids, 0] for ids in load_tokenizer(open_bundle(folder)).encode(SENTENCES) if ids]


def runners(variant: dict[str, object]) -> tuple[EncoderDecoder, EncoderDecoder]:
    exact, rounded = exported("fp32", **variant), exported("int8", **variant)
    return (
        EncoderDecoder(open_sessions(exact.folder, exact.config), exact.config),
        EncoderDecoder(open_kernels(rounded.folder, rounded.config), rounded.config),
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v['activation']}-{v.get('seed', 0)}")
def test_log_probabilities_stay_near_those_of_the_float_graphs(variant: dict[str, object]) -> None:
    exact, kernels = runners(variant)
    vocab_size = exact.config.vocab_size
    for source in sources(**variant)[:4]:
        steps = [one.runner.start([source], 1, 8, None) for one in (exact, kernels)]
        ids, rows = np.array([exact.config.decoder_start_id]), np.zeros(1, np.int64)
        for _ in range(6):
            wanted, found = (one.step(ids, rows, None, None)[0, :vocab_size].copy() for one in steps)
            finite = np.isfinite(wanted)
            np.testing.assert_array_equal(np.isfinite(found), finite)
            assert np.abs(np.exp(found[finite]).sum() - 1) < 1e-3
            spread = wanted[finite] - wanted[finite].mean()
            assert np.linalg.norm(found[finite] - wanted[finite]) < 0.1 * np.linalg.norm(spread)
            ids = np.array([int(np.argmax(wanted))])


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_sentence_does_not_depend_on_its_batch(beam_size: int) -> None:
    _, kernels = runners(VARIANTS[0])
    batch = sources(**VARIANTS[0])
    limits = [12 + index for index in range(len(batch))]
    together = kernels.generate(batch, limits, beam_size=beam_size, length_penalty=1.0, n_best=beam_size)
    for index, source in enumerate(batch):
        alone = kernels.generate(
            [source], [limits[index]], beam_size=beam_size, length_penalty=1.0, n_best=beam_size
        )
        assert alone[0] == together[index]


def test_a_cancelled_call_leaves_the_next_one_right() -> None:
    _, kernels = runners(VARIANTS[0])
    batch = sources(**VARIANTS[0])[:2]
    wanted = kernels.generate(batch, [9, 9], beam_size=2, length_penalty=1.0)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        kernels.generate(batch, [9, 9], beam_size=2, length_penalty=1.0, cancel=cancel)
    assert kernels.generate(batch, [9, 9], beam_size=2, length_penalty=1.0) == wanted


def test_a_model_that_the_kernels_do_not_compute_is_left_to_onnxruntime() -> None:
    bundle = open_bundle(bundle_folder("int8", activation="relu"))  # heads of eight channels
    assert Translator(bundle, RuntimeOptions(device="cpu")).backend == "onnxruntime"
    wide = open_bundle(bundle_folder("int8", **VARIANTS[0]))
    assert Translator(wide, RuntimeOptions(device="cpu")).backend == "kernels"
    assert Translator(wide, RuntimeOptions(device="cpu", backend="onnxruntime")).backend == "onnxruntime"
