"""Makes tests/data/fuzz/bundles.zip: two tiny bundles of random weights that together have every role.

`python -m tests.fuzz.make_seeds` writes it anew; it needs torch, the fuzzer does not.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.bundle.folder import write_bundle
from engine.bundle.schema import AcousticConfig, DecodingConfig, FeatureConfig
from engine.decoding import CtcBeamDecoder
from engine.output.punctuation import CASES, MARKS, N_BUCKETS, N_PIECES
from engine.text import VOCABULARY
from tests.fuzz.mutate import split_message, write_message

DECODER = Path(__file__).parents[1] / "data" / "decoder"
SEEDS = Path(__file__).parents[1] / "data" / "fuzz" / "bundles.zip"
LEFT_OUT = ("README.md",)
MODEL = {"hidden_size": 32, "n_layers": 1, "n_heads": 1, "intermediate_size": 64}
TRANSLATOR: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
}  # fmt: skip


def make_seeds(path: Path = SEEDS) -> None:
    """Write the archive: two folders, "mel" (two passes, translator) and "waveform" (one pass)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [_mel(folder), _waveform(folder)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for bundle in made:
                for file in sorted(bundle.iterdir()):
                    if file.name not in LEFT_OUT:
                        archive.writestr(zipfile.ZipInfo(f"{bundle.name}/{file.name}"), file.read_bytes(),
                                         zipfile.ZIP_DEFLATED)  # fmt: skip


def _mel(folder: Path) -> Path:
    from export.acoustic.log_mel import build_log_mel
    from export.layout.describe import describe_model
    from export.quantization.quantize import choose
    from export.two_pass.checkpoint import second_pass_config
    from tests.reference import tiny_encoders, tiny_two_pass

    sizes = {**tiny_encoders.MEL_SMALLEST, "n_sinks": 2, "vocab_size": len(VOCABULARY)}
    encoder = tiny_encoders.make_log_mel_model(**sizes)
    decoder = tiny_two_pass.make_decoder(**MODEL)
    _, blocks = build_log_mel(encoder, states=True)
    graph = build_log_mel(encoder, choose(list(blocks)), None, True)[0]
    files = tiny_two_pass.write_decoder(decoder, folder / "decoder", "int8")
    tokens = ["<|end|>", "<|start|>", "<|de|>", "<|do|>", "<|no|>", "<|none|>", " ", ".", ",", "?"]
    tokens += [f" {letter}" for letter in VOCABULARY[2:]] + [*VOCABULARY[2:]]
    tokens += [f" {word}" for word in _words()]
    files["asr_tokens"].write_text(json.dumps(tokens[: decoder.config.vocab_size]), encoding="utf-8")
    parts, translation = _translator(folder)
    files |= parts | _first_pass(folder, DECODER / "tiny.trie.bin")
    files["acoustic"] = folder / "acoustic.onnx"
    files["acoustic"].write_bytes(describe_model(graph, "acoustic"))
    features = FeatureConfig(kind="log_mel", n_mels=80, convention="whisper")
    return write_bundle(
        folder / "mel",
        name="mel",
        licence="CC0",
        files=files,
        card="tiny",
        acoustic=AcousticConfig(
            features=features, precision="int8", max_window_s=1.0, tail_silence_s=0.2, figures={"WER": 1.0}
        ),
        decoding=DecodingConfig(beam_width=8),
        second_pass=msgspec.structs.replace(
            second_pass_config(decoder, "int8"), beam_size=2, confidence={"bias": 0.1, "attention": 0.9}
        ),
        translation=msgspec.structs.replace(translation, beam_size=2),
        figures={"rtfx": [1, 2.5]},
    )


def _waveform(folder: Path) -> Path:
    from tests.reference import tiny_encoders

    sizes = {**tiny_encoders.SIZES, "vocab_size": len(VOCABULARY)}
    tiny_encoders.SIZES.update(sizes)
    graph = tiny_encoders.waveform_encoder("layer norm", True).graphs["int8"]
    files = _first_pass(folder, DECODER / "tiny.arpa", lexicon=False)
    files["acoustic"] = folder / "waveform.onnx"
    files["acoustic"].write_bytes(graph)
    return write_bundle(
        folder / "waveform",
        name="waveform",
        licence="CC0",
        files=files,
        card="tiny",
        acoustic=AcousticConfig(precision="int8", max_window_s=2.0),
        decoding=DecodingConfig(beam_width=8),
    )


def _first_pass(folder: Path, model: Path, lexicon: bool = True) -> dict[str, Path]:
    files = {"vocabulary": folder / "vocab.json", "language_model": model}
    files["vocabulary"].write_text(json.dumps({token: at for at, token in enumerate(VOCABULARY)}))
    if lexicon:
        files["lexicon"] = folder / "lexicon.npz"
        CtcBeamDecoder(VOCABULARY, language_model=model).save_lexicon(files["lexicon"])
    files["punctuation"] = folder / "punctuation.onnx"
    onnx.save(_tagger(), files["punctuation"])
    return files


def _translator(folder: Path) -> tuple[dict[str, Path], Any]:
    from export.translation import marian
    from tests.reference import tiny_marian

    marian.PARITY_SENTENCES, marian.PARITY_TOKENS, marian.MAX_CALIBRATION = 2, 6, 8
    checkpoint = tiny_marian.checkpoint(**TRANSLATOR, logits_bias=True)
    done = marian.export_marian(
        checkpoint, folder / "mt", precision="int8", verify_sources=tiny_marian.SENTENCES
    )
    files = {role: Path(path) for role, path in done.files.items()}
    target = folder / "target.model"
    target.write_bytes(_without_charsmap(files["mt_tokenizer_target"].read_bytes()))
    return files | {"mt_tokenizer_target": target}, done.config


def _without_charsmap(model: bytes) -> bytes:
    """A SentencePiece model without its table of characters, which is most of it; one of the two has it."""
    fields = [
        (
            number,
            kind,
            write_message([f for f in split_message(value) if f[0] != 2]) if number == 3 else value,
        )
        for number, kind, value in split_message(model)
    ]
    return write_message(fields)


def _tagger() -> onnx.ModelProto:
    """pieces int64 [n_words, 8] -> cases [n_words, 3], marks [n_words, 6]: some linear map of the buckets."""
    rng = np.random.default_rng(0)
    weights = {"c": rng.normal(size=(N_PIECES, len(CASES))), "m": rng.normal(size=(N_PIECES, len(MARKS)))}
    constants = [
        numpy_helper.from_array((w / N_BUCKETS).astype(np.float32), name) for name, w in weights.items()
    ]
    nodes = [
        helper.make_node("Cast", ["pieces"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "c"], ["cases"]),
        helper.make_node("MatMul", ["floats", "m"], ["marks"]),
    ]
    pieces = helper.make_tensor_value_info("pieces", TensorProto.INT64, ["n_words", N_PIECES])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n_words", size])
        for name, size in (("cases", len(CASES)), ("marks", len(MARKS)))
    ]
    graph = helper.make_graph(nodes, "tagger", [pieces], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _words() -> list[str]:
    return sorted(set((DECODER / "tiny.txt").read_text(encoding="utf-8").split()))


if __name__ == "__main__":
    make_seeds()
    print(f"{SEEDS}: {SEEDS.stat().st_size} bytes", file=sys.stderr)
