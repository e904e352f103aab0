"""Parakeet CTC with SentencePiece pieces, tiny and random, from checkpoint to words, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("onnx")

import soundfile  # noqa: E402

import benchmarks.cli  # noqa: E402
import engine  # noqa: E402
from engine.acoustic.model import compute_log_softmax  # noqa: E402
from engine.cli import main as engine_main  # noqa: E402
from engine.decoding import CtcBeamDecoder  # noqa: E402
from export.acoustic.export import ExportOptions  # noqa: E402
from export.acoustic.pretrained import export_pretrained  # noqa: E402
from export.cli import main as export_main  # noqa: E402
from export.verification import audio_cases  # noqa: E402
from export.verification.audio_cases import speech_like  # noqa: E402

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
BINARY = FIXTURES / "tiny.probing.bin"
N_MELS, FRAME_S = 16, 0.08
WAVEFORM = speech_like(64_000, 16_000)  # 4 s
HOTWORDS = ["rothenburg", "zug"]
QUICK: dict[str, Any] = {"allow_slower": True, "sensitivity": False, "batches": False, "min_agreement": 0.5}


def read_pieces() -> list[str]:
    """110 pieces, as SentencePiece wrote them; the blank comes behind them, as in NeMo's models."""
    labels = np.load(FIXTURES / "emissions_pieces.npz")["labels"].tobytes().decode().split("\n")
    return [label for label in labels if label != "<pad>"]


LABELS = [*read_pieces(), "<pad>"]


def make_extractor() -> Any:
    return transformers.ParakeetFeatureExtractor(feature_size=N_MELS)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(4)
    encoder = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    encoder |= {"conv_kernel_size": 5, "subsampling_conv_channels": 8, "num_mel_bins": N_MELS}
    config = transformers.ParakeetCTCConfig(
        vocab_size=len(LABELS), pad_token_id=len(LABELS) - 1, encoder_config=encoder
    )
    made = transformers.ParakeetForCTC(config).eval()
    with torch.no_grad():  # with weights as they are drawn, every frame would be the same piece
        inputs = make_extractor()(WAVEFORM, sampling_rate=16_000, return_tensors="pt")
        logits = made(**inputs).logits[0]
        mean = logits.mean(dim=0)
        scale = 4.0 / (logits - mean).std()
        made.ctc_head.weight.mul_(scale)
        made.ctc_head.bias.sub_(mean).mul_(scale)
    return made


def make_tokenizer() -> Any:
    """As published Parakeet models have it: pieces with a mark at the start of words, repeats removed."""
    scores = [(piece, 0.0 if piece == "<unk>" else -float(rank)) for rank, piece in enumerate(LABELS)]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=LABELS.index("<unk>")))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    return transformers.ParakeetTokenizer(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: Any) -> str:
    folder = tmp_path_factory.mktemp("parakeet")
    model.save_pretrained(folder / "checkpoint")
    make_extractor().save_pretrained(folder / "checkpoint")
    make_tokenizer().save_pretrained(folder / "checkpoint")
    assert (folder / "checkpoint" / "tokenizer.json").is_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_cases, "BUCKETS_S", (3.0, 6.0))
        export_pretrained(
            str(folder / "checkpoint"), folder / "acoustic", ExportOptions(precision="fp32", **QUICK)
        )
    command = ["bundle", str(folder / "bundle"), "--acoustic", str(folder / "acoustic"), "--name", "parakeet"]
    assert export_main([*command, "--language-model", str(BINARY), "--licence", "MIT"]) == 0
    return str(folder / "bundle")


@pytest.fixture(scope="module")
def logits(model: Any) -> np.ndarray:
    """transformers' own, from the waveform on."""
    inputs = make_extractor()(WAVEFORM, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits[0].numpy()


@pytest.fixture(scope="module")
def loaded(bundle: str) -> engine.SpeechTranslator:
    return engine.load(bundle, device="cpu", threads=1)


def decoder(**options: Any) -> CtcBeamDecoder:
    settings = {"blank_id": len(LABELS) - 1, "frame_s": FRAME_S, **options}
    return CtcBeamDecoder(LABELS, BINARY, **settings)


def test_greedy_text_is_what_transformers_decodes(loaded: Any, logits: np.ndarray) -> None:
    greedy = engine.DecodingOptions(vad_filter=False, beam_width=1)
    got = loaded.compute_log_probs(loaded.compute_features(WAVEFORM))
    rows = logits[: len(got)]  # transformers' last row is of the padding
    assert len(logits) - len(got) in (0, 1)
    wanted = make_tokenizer().decode(rows.argmax(axis=-1).tolist(), skip_special_tokens=True)
    assert len(wanted.split()) >= 3
    np.testing.assert_allclose(got, compute_log_softmax(rows), atol=2e-2)
    assert loaded.decode(got, options=greedy).text == " ".join(wanted.split())


def test_beams_times_and_hotwords_are_those_of_transformers_logits(loaded: Any, logits: np.ndarray) -> None:
    """The recogniser, and the decoder alone on what transformers computes: texts, order and frames."""
    tuned = loaded.bundle.manifest.decoding
    alone = decoder(
        lm_alpha=tuned.lm_alpha, lm_beta=tuned.lm_beta, beam_prune_logp=tuned.beam_prune_logp,
        token_min_logp=tuned.token_min_logp, unk_score_offset=tuned.unk_score_offset,
    )  # fmt: skip
    emissions = loaded.compute_log_probs(loaded.compute_features(WAVEFORM))
    for hotwords in ((), HOTWORDS):
        wanted = alone.decode(logits[: len(emissions)], 64, 5, hotwords, logits=True)
        got = loaded.decoder.decode(emissions, 64, 5, hotwords)
        assert [h.text for h in got] == [h.text for h in wanted]
        for word, other in zip(got[0].words, wanted[0].words, strict=True):
            assert (word.start_s, word.end_s) == pytest.approx((other.start_s, other.end_s))
            assert word.start_s / FRAME_S == pytest.approx(round(word.start_s / FRAME_S))
    heard = loaded.transcribe(WAVEFORM, options=engine.DecodingOptions(vad_filter=False))
    assert heard.words and all(0 <= w.start_s < w.end_s <= 4.0 + FRAME_S for w in heard.words)


def test_chunks_give_what_the_whole_gives(logits: np.ndarray) -> None:
    whole = decoder().decode(logits, n_best=3, logits=True)
    for n_chunks in (2, 7):
        state = decoder().start(n_best=3)
        for chunk in np.array_split(logits, n_chunks):
            state = decoder().advance(state, chunk, logits=True)
        assert decoder().finish(state, 3) == whole


def test_stream_hears_pieces(loaded: Any) -> None:
    pause = np.zeros(24_000, np.float32)
    with loaded.open_stream(16_000) as stream:
        events = list(stream.run(np.array_split(np.concatenate([pause, WAVEFORM, pause]), 14)))
    finals = [event for event in events if event.kind == "final"]
    assert finals
    words = [word for event in finals for word in event.words]
    assert words and all(1.0 < word.start_s < word.end_s < 7.0 for word in words)


def test_command_line_and_bench_read_the_bundle(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", WAVEFORM, 16_000)
    (tmp_path / "m.tsv").write_text("path\ttext_de\na.wav\tder zug\n", encoding="utf-8")
    command = ["transcribe", str(tmp_path / "a.wav"), "--model", bundle, "--output_dir", str(tmp_path)]
    assert engine_main([*command, "--output_format", "json", "--vad_filter", "false"]) == 0
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["segments"]
    capsys.readouterr()
    bench = ["--model", bundle, "--data", str(tmp_path / "m.tsv"), "--task", "transcribe", "--warmup", "0"]
    assert benchmarks.cli.main([*bench, "--json", str(tmp_path / "out.json")]) == 0
    assert "wer" in (tmp_path / "out.json").read_text(encoding="utf-8")
