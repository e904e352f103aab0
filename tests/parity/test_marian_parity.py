"""Exported Marian graphs against transformers' generate, token by token."""

from __future__ import annotations

import numpy as np
import pytest

from engine.bundle.folder import open_bundle
from engine.translation.search import EncoderDecoder
from engine.translation.tokenizer import load_tokenizer
from engine.translation.translator import Translator
from engine.types import RuntimeOptions
from tests.reference.tiny_marian import SENTENCES, bundle_folder, checkpoint, exported

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from export.translation.runners import open_sessions  # noqa: E402

ONE_THREAD = RuntimeOptions(device="cpu", threads=1)

VARIANTS = [
    {"activation": "relu"},
    {"activation": "swish", "logits_bias": True, "seed": 1},
    {"activation": "gelu", "logits_bias": True, "seed": 2, "decoder_layers": 1, "encoder_layers": 3},
    {"activation": "relu", "seed": 3, "scale_embedding": False, "decoder_attention_heads": 2},
]  # fmt: skip


def runner(precision: str, **variant: object) -> EncoderDecoder:
    done = exported(precision, **variant)
    return EncoderDecoder(open_sessions(done.folder, done.config), done.config)


def sources(folder) -> list[list[int]]:
    return [[*ids, 0] for ids in load_tokenizer(open_bundle(folder)).encode(SENTENCES)]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@pytest.mark.parametrize("beam_size", [1, 3])
def test_tokens_and_scores_equal_those_of_generate(variant: dict[str, object], beam_size: int) -> None:
    from transformers import MarianMTModel

    model = MarianMTModel.from_pretrained(checkpoint(**variant)).eval()
    ours = runner("fp32", **variant)
    for source in sources(bundle_folder("fp32", **variant))[:6]:
        wanted = model.generate(
            input_ids=torch.tensor([source]), num_beams=beam_size, num_return_sequences=beam_size,
            max_new_tokens=15, max_length=None, do_sample=False, length_penalty=1.2, early_stopping=False,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        found = ours.generate([source], [15], beam_size=beam_size, length_penalty=1.2, n_best=beam_size)[0]
        tokens = [
            tuple(t for t in row if t not in (0, ours.config.pad_id))
            for row in wanted.sequences[:, 1:].tolist()
        ]
        assert [hypothesis.tokens for hypothesis in found] == tokens
        if beam_size > 1:
            scores = wanted.sequences_scores.numpy()
            np.testing.assert_allclose([h.score for h in found], scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_sentence_gives_the_same_bits_alone_and_in_any_batch(precision: str, beam_size: int) -> None:
    translator = Translator(open_bundle(bundle_folder(precision, **VARIANTS[1])), ONE_THREAD)
    alone = [translator.translate([text], beam_size=beam_size)[0] for text in SENTENCES]
    together = translator.translate(SENTENCES, beam_size=beam_size)
    padded = translator.translate(
        [*(f"Der {i} Hund" for i in range(30)), *SENTENCES[::-1]], beam_size=beam_size
    )
    assert together == alone
    assert padded[30:][::-1] == alone


def test_threads_change_nothing() -> None:
    bundle = open_bundle(bundle_folder("int8", **VARIANTS[1]))
    texts = [f"{text} {i}" for i in range(20) for text in SENTENCES]
    one, two = (Translator(bundle, RuntimeOptions(device="cpu", threads=n)).translate(texts) for n in (1, 2))
    assert one == two


def test_the_embedding_table_is_stored_once_and_int8_is_a_quarter() -> None:
    tables = {}
    for precision in ("fp32", "int8"):
        files = exported(precision, **VARIANTS[0]).files
        tables[precision] = files["mt_embeddings"].stat().st_size
        for part in ("mt_encoder", "mt_decoder"):
            assert "mt_embeddings.bin" in files[part].read_bytes().decode("latin-1")
    assert tables == {"fp32": 240 * 32 * 4, "int8": 240 * 32}
