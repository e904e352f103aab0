"""The comparison itself: it must find what is wrong and refuse it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
soundfile = pytest.importorskip("soundfile")

from engine.bundle.schema import AcousticConfig, FeatureConfig  # noqa: E402
from engine.errors import ManifestError  # noqa: E402
from export.card import figures_table, parity_table, render_acoustic_card, render_bundle_card  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.quantization.quantize import search_blocks  # noqa: E402
from export.verification.audio_cases import (  # noqa: E402
    Case,
    build_cases,
    case_to_time,
    mix_noise,
    speech_like,
)
from export.verification.batch_check import BatchRow, batch_rows  # noqa: E402
from export.verification.verify import (  # noqa: E402
    Report,
    Row,
    check,
    compare,
    greedy_words,
    verify,
    with_logits,
)

VOCABULARY = ("<pad>", "|", "a", "b")
CONFIG = AcousticConfig()


def reference(batch: np.ndarray, lengths: list[int] | None = None) -> np.ndarray:
    """A "model" of four outputs a sample."""
    return np.stack([batch, -batch, batch**2, 1 - batch], axis=-1).astype(np.float32)


def report(
    agreement: float = 1.0,
    loss: float = 0.0,
    n_words: int = 1000,
    speedup: float = 2.0,
    batches: tuple[BatchRow, ...] = (),
) -> Report:
    rows = (Row("1 s", "clean", 50, 0.01, 1.0), Row("3 s", "white 20 dB", 150, 0.02, agreement))
    return Report(
        rows, n_words=n_words, wer_reference=0.2, wer_export=0.2 + loss, speedup=speedup, batches=batches,
        masked=bool(batches), sensitivity={"layer_0/feed_in": 0.02},
    )  # fmt: skip


def test_comparison_of_a_model_with_itself_is_perfect() -> None:
    cases = with_logits(build_cases(CONFIG), reference)
    found = verify(reference, cases, CONFIG, VOCABULARY)
    assert len(found.rows) == 15  # five lengths; clean, white and red noise
    assert {row.agreement for row in found.rows} == {1.0}
    assert {row.error for row in found.rows} == {0.0}
    assert found.batch_agreement == {1: 1.0, 2: 1.0, 7: 1.0}
    assert len(found.batches) == 5 * 2 * 3  # lengths, clean and red noise, batch 1, 2 and 7
    assert verify(reference, cases, CONFIG, VOCABULARY, batches=False).batches == ()
    assert {row.error for row in found.batches} == {0.0}
    check(found, "fp32")


@pytest.mark.parametrize("masked", [False, True])
def test_batches_find_a_graph_whose_result_depends_on_its_neighbours(masked: bool) -> None:
    def leaking(batch: np.ndarray, lengths: list[int] | None = None) -> np.ndarray:
        return reference(batch) * (1 if len(batch) == 1 else -1)

    cases = with_logits([Case(speech_like(16_000, 16_000), "1 s")], reference)
    rows = batch_rows(leaking, cases, masked)
    assert [row.batch for row in rows] == [1, 2, 7]
    assert rows[0].alone == 1.0
    assert rows[1].alone < 0.99
    assert rows[2].error > 0.1


def test_padding_that_shows_is_found() -> None:
    seen: list[tuple[int, list[int]]] = []

    def run(batch: np.ndarray, lengths: list[int] | None = None) -> np.ndarray:
        if lengths is not None:
            seen.append((batch.shape[1], lengths))
        return reference(batch + batch.shape[1] * 1e-3)  # as a mean over padding would

    cases = with_logits([Case(np.linspace(-1, 1, 100, dtype=np.float32), "1 s")], run)
    rows = batch_rows(run, cases, True)
    assert seen == [(110, [100, 110]), (110, [100, *[110] * 6])]
    assert rows[0].error == 0
    assert rows[1].error > 0


def test_comparison_counts_changed_frames_and_the_size_of_the_error() -> None:
    case = Case(np.linspace(-1, 1, 100, dtype=np.float32), "1 s")
    cases = with_logits([case], reference)

    def wrong(batch: np.ndarray) -> np.ndarray:
        logits = reference(batch)
        logits[:, :25] = -logits[:, :25]
        return logits

    error, agreement = compare(wrong, cases)
    logits = reference(case.features[None])[0]
    assert error == pytest.approx(2 * np.linalg.norm(logits[:25]) / np.linalg.norm(logits), rel=1e-5)
    assert agreement == 0.75
    with pytest.raises(ExportError, match="instead of"):
        compare(lambda batch: reference(batch)[:, 1:], cases)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (report(agreement=0.97), r"argmax agreement 0\.9775, below 0\.98"),
        (report(agreement=0.90), r"argmax agreement 0\.9000 at 3 s, white 20 dB"),
        (report(agreement=float("nan")), "argmax agreement nan"),
        (report(loss=0.004), r"up by 0\.40 points over 1000 words"),
        (report(speedup=0.9), r"slower than float32 .*0\.90"),
        (
            report(batches=(BatchRow("3 s", "clean", 2, 0.1, 1.0, 0.9),)),
            r"differs in a batch: 0\.9000 .* at 3 s, clean, batch 2",
        ),
    ],
)
def test_bad_exports_are_refused(bad: Report, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check(bad, "int8")


def test_small_losses_and_few_words_are_not_refused() -> None:
    check(report(agreement=0.981, loss=0.002), "int8")
    check(report(loss=0.05, n_words=20), "int8")
    check(report(speedup=0.5), "int8", allow_slower=True)
    check(report(agreement=0.6), "int8", min_agreement=0.5)
    check(report(loss=0.01), "int8", max_wer_loss=0.02)


def test_search_gives_up_the_worst_blocks_first_until_it_is_good_enough() -> None:
    damage = {"a": 0.01, "b": 0.10, "c": 0.03}
    built: list[set[str]] = []

    def build(choice, ranges):  # type: ignore[no-untyped-def]
        built.append({block for block in damage if choice(block) == "int8"})
        assert choice("head/output") == "float32"
        return built[-1], {}

    def measure(model: set[str]) -> tuple[float, float]:
        error = sum(damage[block] for block in model)
        return error, 1 - error

    assert search_blocks(build, list(damage), {}, measure, 0.8)[1] == []
    assert search_blocks(build, list(damage), {}, measure, 0.95)[1] == ["b"]
    assert search_blocks(build, list(damage), {}, measure, 0.98)[1] == ["b", "c"]
    assert search_blocks(build, list(damage), {}, measure, 1.1)[1] == ["b", "c", "a"]
    assert built[-1] == set()


def test_greedy_words() -> None:
    path = [0, 2, 2, 0, 2, 1, 1, 0, 3, 0]
    words = greedy_words(np.eye(4, dtype=np.float32)[path], CONFIG, VOCABULARY)
    assert words == ["aa", "b"]


def test_manifest_gives_utterances_with_their_texts(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech_like(16_000, 16_000), 16_000)
    (tmp_path / "data.tsv").write_text("path\ttext_de\na.wav\tGuten Tag!\n", encoding="utf-8")
    (tmp_path / "data.jsonl").write_text(
        json.dumps({"audio_filepath": "a.wav", "text": "Guten Tag!"}) + "\n", encoding="utf-8"
    )
    for name in ("data.tsv", "data.jsonl"):
        spoken = [case for case in build_cases(CONFIG, tmp_path / name) if case.text]
        assert [case.text for case in spoken] == ["guten tag"]
    (tmp_path / "bad.tsv").write_text("file\ttext\na.wav\tx\n")
    with pytest.raises(ManifestError, match="got columns file, text"):
        build_cases(CONFIG, tmp_path / "bad.tsv")
    with pytest.raises(ManifestError, match="no such file"):
        build_cases(CONFIG, tmp_path / "missing.tsv")


@pytest.mark.parametrize("kind", ["white", "red"])
def test_noise_has_the_asked_for_level(kind: str) -> None:
    waveform = speech_like(16_000, 16_000)
    noise = mix_noise(waveform, kind, 10.0, 0) - waveform
    ratio_db = 10 * np.log10((waveform**2).mean() / (noise**2).mean())
    assert ratio_db == pytest.approx(10, abs=0.1)


def test_cases_leave_room_for_the_tail_silence() -> None:
    config = AcousticConfig(FeatureConfig(kind="log_mel"), tail_silence_s=2.0, max_window_s=13.0)
    cases = build_cases(config)
    assert {case.bucket for case in cases} == {"1 s", "3 s", "6 s"}
    assert cases[0].features.shape == (80, 300)


def test_cards_state_what_was_measured() -> None:
    card = render_acoustic_card("name", "CC0", ["About it."], CONFIG, report(), ["head/output"])
    for part in ("Licence: CC0", "About it.", "| 3 s | white 20 dB | 150 | 0.02 | 100.00 % |", "20.00 %"):
        assert part in card
    whole = render_bundle_card("all", "CC0", {"Acoustic model": card}, {"wer": 0.2, "s": {"a|b": 1}})
    assert "### name" in whole
    assert "| wer | 0.2 |" in whole
    assert "&#124;" in figures_table({"signature": "a|b"})[2]
    assert "2.00 times" in "\n".join(parity_table(report()))
    assert "| layer_0/feed_in | 0.02 |" in card
    rows = tuple(BatchRow("1 s", "clean", size, 0.25, 1.0, 0.5) for size in (1, 2))
    assert "| 1 s | clean | 0.25, 50.00 % | 0.25, 50.00 % |" in parity_table(report(batches=rows))


def test_speed_is_measured_on_the_bucket_nearest_to_six_seconds() -> None:
    def timed(*buckets: str) -> str:
        return case_to_time([Case(np.zeros(4, np.float32), bucket) for bucket in buckets]).bucket

    assert timed("", "1 s", "3 s", "6 s", "12 s") == "6 s"
    assert timed("1 s", "3 s") == "3 s" and timed("12 s", "20 s") == "12 s"
    for none in ((), ("",)):
        with pytest.raises(ExportError, match="max_window_s"):
            timed(*none)
