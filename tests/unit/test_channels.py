"""A speaker on each channel, the choice of a track, and warnings: from the file to every output."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

import engine
from engine.audio.channels import drop_copies
from engine.audio.load import AudioLimits, load_audio, read_audio
from engine.cli import main
from engine.errors import AudioDecodeError, AudioLimitError, AudioWarning, EngineError, OptionError
from engine.jobs.translating import translate_together
from engine.output.formats import render, to_dict
from engine.types import DecodingOptions, TranslationHypothesis
from tests.unit.audio_files import RATE, Track, encoded, muxed

pytest.importorskip("onnx", reason="builds a graph: needs the extra [export]")
from tests.reference.tone_bundle import spell, write_tone_bundle

LEFT, RIGHT = "guten morgen", "ja bitte"
SEPARATE = DecodingOptions(channels="separate")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_bundle(tmp_path_factory.mktemp("model") / "tones")


@pytest.fixture(scope="module")
def recogniser(bundle: Path) -> engine.SpeechTranslator:
    return engine.load(str(bundle), device="cpu", threads=2)


def call() -> np.ndarray:
    """Two speakers, [n_samples, 2]: the right one begins while the left one still speaks."""
    left, right = spell(f".{LEFT}.....{LEFT}."), np.pad(spell(f".{RIGHT}."), (RATE, 0))
    size = max(len(left), len(right))
    return np.stack([np.pad(each, (0, size - len(each))) for each in (left, right)], axis=1)


def said(result: engine.Transcript) -> list[tuple[str, int | None]]:
    return [(segment.text, segment.channel) for segment in result.segments]


@pytest.fixture(scope="module")
def heard(recogniser: engine.SpeechTranslator) -> engine.Transcript:
    return recogniser.transcribe(call(), options=SEPARATE)


def test_each_channel_is_heard_by_itself_and_merged_by_time(
    recogniser: engine.SpeechTranslator, heard: engine.Transcript
) -> None:
    assert said(heard) == [(LEFT, 1), (RIGHT, 2), (LEFT, 1)]
    assert [segment.speaker for segment in heard.segments] == ["Speaker 1", "Speaker 2", "Speaker 1"]
    starts = [segment.start_s for segment in heard.segments]
    assert starts == sorted(starts) and starts[1] < heard.segments[0].end_s
    alone = recogniser.transcribe(np.ascontiguousarray(call()[:, 1]))
    assert alone.segments[0].words == heard.segments[1].words and alone.segments[0].speaker == ""
    assert heard.duration_s == pytest.approx(len(call()) / RATE)
    assert recogniser.transcribe(call()).text != heard.text  # the mean of both


@pytest.mark.parametrize("form", ["flac", "wav", "mp3", "ogg", "matroska/flac", "mp4/aac", "webm/libopus"])
def test_files_with_two_channels(
    recogniser: engine.SpeechTranslator, heard: engine.Transcript, form: str, tmp_path: Path
) -> None:
    path = tmp_path / "call"
    if "/" in form:
        rate = 48_000
        wide = np.repeat(call(), 3, axis=0)  # crude, and its images lie above the tones
        path.write_bytes(muxed([Track(wide)], *form.split("/"), rate, "stereo"))
    else:
        path.write_bytes(encoded(call(), form.upper()))
    found = recogniser.transcribe(path, options=SEPARATE)
    assert said(found) == said(heard)
    for one, other in zip(found.words, heard.words, strict=True):
        assert one.start_s == pytest.approx(other.start_s, abs=0.06)


def test_copies_of_a_channel_are_heard_once_and_silent_ones_say_nothing(
    recogniser: engine.SpeechTranslator,
) -> None:
    mono = spell(f".{LEFT}.")
    both = recogniser.transcribe(np.stack([mono, -mono, 0 * mono, mono], axis=1), options=SEPARATE)
    assert said(both) == [(LEFT, 1)]
    assert both.warnings == ("2 of 4 channels are copies of another one; they are left out",)
    second = recogniser.transcribe(np.stack([0 * mono, mono], axis=1), options=SEPARATE)
    assert said(second) == [(LEFT, 2)] and second.warnings == ()
    assert said(recogniser.transcribe(mono, options=SEPARATE)) == [(LEFT, 1)]
    assert said(recogniser.transcribe(0 * mono, options=SEPARATE)) == []


def test_only_copies_are_copies() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, RATE)).astype(np.float32)
    assert drop_copies([first, second]) == ([0, 1], "")
    assert drop_copies([first, 0.9 * first])[0] == [0, 1]  # one voice at two microphones: who knows
    assert drop_copies([first, first + 1e-4 * second, second])[0] == [0, 2]


def test_recordings_of_one_and_two_channels_that_are_joined() -> None:
    one, two = 0.1 * np.ones(RATE, np.float32), np.tile(np.float32([0.2, 0.3]), (RATE, 1))
    for parts, values in (
        ((one, two, one), [(0.1, 0.2, 0.1), (0, 0.3, 0)]),
        ((two, one), [(0.2, 0.1), (0.3, 0)]),
    ):
        content = b"".join(encoded(part, "FLAC") for part in parts)
        found = read_audio(content, channels="separate").waveforms
        assert [len(each) for each in found] == [len(parts) * RATE] * 2
        for waveform, expected in zip(found, values, strict=True):
            np.testing.assert_allclose(waveform[RATE // 2 :: RATE], expected, atol=1e-3)


def test_channels_that_would_fill_the_memory_are_refused() -> None:
    content = encoded(np.zeros((4 * RATE, 8), np.float32), "FLAC")
    limits = AudioLimits(max_duration_s=10.0)
    assert len(load_audio(content, limits=limits)) == 4 * RATE
    with pytest.raises(AudioLimitError, match="8 channels"):
        read_audio(content, limits=limits, channels="separate")


def test_a_track_is_chosen_by_its_number(recogniser: engine.SpeechTranslator, tmp_path: Path) -> None:
    path = tmp_path / "tracks.mkv"
    path.write_bytes(muxed([Track(spell(f".{text}.")) for text in (LEFT, RIGHT)], "matroska", "flac"))
    for track, text in ((1, LEFT), (2, RIGHT)):
        found = recogniser.transcribe(path, options=DecodingOptions(audio_track=track))
        assert found.text == text and found.warnings == ()
    with pytest.raises(AudioDecodeError, match=r"audio track 3 .* has 2; expected 1 to 2"):
        load_audio(path, track=3)
    for form in ("WAV", "FLAC", "MP3", "OGG"):
        content = encoded(spell(LEFT), form)
        assert len(load_audio(content, track=1)) == pytest.approx(len(spell(LEFT)), abs=1)
        with pytest.raises(AudioDecodeError, match=r"audio track 2 .* has 1"):
            load_audio(content, track=2)
    with pytest.raises(AudioDecodeError, match="the array has 1"):
        load_audio(call(), track=2)


def test_every_format_names_the_speakers(heard: engine.Transcript) -> None:
    assert render(heard, "txt").splitlines()[1] == f"Speaker 2: {RIGHT}"
    assert f"Speaker 2: {RIGHT}\n" in render(heard, "srt")
    assert f"<v Speaker 2>{RIGHT}\n" in render(heard, "vtt")
    rows = [row.split("\t") for row in render(heard, "tsv").splitlines()]
    assert rows[0] == ["start", "end", "speaker", "text"] and rows[2][2:] == ["Speaker 2", RIGHT]
    content = json.loads(render(heard, "json"))
    assert [(each["channel"], each["speaker"]) for each in content["segments"]][1] == (2, "Speaker 2")
    for output_format in ("srt", "vtt", "tsv"):
        assert "Speaker 2" in render(heard, output_format, word_timestamps=True)
    plain = engine.Transcript(tuple(map(mixed, heard.segments)), heard.duration_s)
    for output_format in ("txt", "srt", "vtt", "tsv", "json"):
        assert "peaker" not in render(plain, output_format)


def mixed(segment: engine.Segment) -> engine.Segment:
    return engine.Segment(segment.text, segment.start_s, segment.end_s, segment.words)


def test_cues_of_one_speaker_never_overlap_and_lines_have_room_for_the_name(heard: engine.Transcript) -> None:
    srt = render(heard, "srt")
    assert all(len(line) <= 42 for line in srt.splitlines())
    starts = [line.split(" --> ")[0] for line in srt.splitlines() if " --> " in line]
    assert starts == sorted(starts)


def test_a_translation_keeps_the_channels(heard: engine.Transcript) -> None:
    (english,) = translate_together(
        [heard], lambda texts: [TranslationHypothesis(text.upper(), 0.0, 0.5) for text in texts]
    )
    assert [segment.channel for segment in english.segments] == [1, 2, 1]
    assert render(english, "txt").splitlines()[1] == f"Speaker 2: {RIGHT.upper()}"


def test_progress_goes_over_all_channels(recogniser: engine.SpeechTranslator) -> None:
    seen: list[tuple[float, float]] = []
    recogniser.transcribe(call(), options=SEPARATE, progress=lambda *pair: seen.append(pair))
    done = [pair[0] for pair in seen]
    total_s = 2 * len(call()) / RATE
    assert done == sorted(done) and seen[-1] == pytest.approx((total_s, total_s))


def test_a_stream_has_no_channels_to_choose(recogniser: engine.SpeechTranslator) -> None:
    for options in (SEPARATE, DecodingOptions(audio_track=1), DecodingOptions(vad="silero.onnx")):
        with pytest.raises(OptionError):
            recogniser.stream([], options=options)


def test_the_command_line_names_speakers_and_warns(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(encoded(call(), "WAV")[:-2_000])
    arguments = [
        "transcribe",
        str(path),
        "--model",
        str(bundle),
        "--channels",
        "separate",
        "--hotwords",
        "東京",
    ]
    assert main([*arguments, "--output_format", "json"]) == 0
    printed = capfd.readouterr()
    content = json.loads(printed.out)
    assert [each["channel"] for each in content["segments"]] == [1, 2, 1]
    hotword, cut = content["warnings"]
    assert "'東京'" in hotword and "the rest is missing" in cut
    assert sorted(line.split(":")[1] for line in printed.err.splitlines()) == [" warning", " warning"]
    assert main([*arguments, "--audio_track", "2"]) == 1
    assert "audio track 2 was asked for" in capfd.readouterr().err


def test_a_bad_file_changes_none_of_its_neighbours(
    recogniser: engine.SpeechTranslator, tmp_path: Path
) -> None:
    good, cut = tmp_path / "good.wav", tmp_path / "cut.wav"
    soundfile.write(good, spell(f".{LEFT}."), RATE)
    cut.write_bytes(good.read_bytes()[:-6_000])
    (tmp_path / "text.wav").write_text("no audio")
    inverted = np.stack([spell(f".{RIGHT}."), -spell(f".{RIGHT}.")], axis=1)
    files = [good, tmp_path / "text.wav", cut, tmp_path / "missing.wav", inverted, good]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = list(recogniser.transcribe_batch(files))
    assert [isinstance(each, EngineError) for each in results] == [False, True, False, True, False, False]
    alone = [recogniser.transcribe(file) for file in (files[0], files[2], files[4])]
    assert [results[0], results[2], results[4], results[5]] == [*alone, alone[0]]
    assert alone[0].warnings == () and "the rest is missing" in alone[1].warnings[0]
    assert alone[2].text == RIGHT and "cancel each other" in alone[2].warnings[0]
    assert len([each for each in caught if each.category is AudioWarning]) == 2
    assert to_dict(alone[1])["warnings"] == list(alone[1].warnings)


def test_the_service_takes_channels_and_sends_warnings(recogniser: engine.SpeechTranslator) -> None:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from engine.serve import create_app

    def post(content: bytes, **fields: str) -> dict[str, object]:
        data = {"response_format": "verbose_json", **fields}
        answer = client.post("/v1/audio/transcriptions", files={"file": ("x", content)}, data=data)
        return dict(answer.json())

    with TestClient(create_app(recogniser)) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = post(encoded(call(), "WAV")[:-2_000], channels="separate", hotwords="東京")
        assert [(each["channel"], each["speaker"]) for each in found["segments"]][1] == (2, "Speaker 2")
        assert len(found["warnings"]) == 2 and "the rest is missing" in found["warnings"][0]
        copies = np.stack([0 * call()[:, 0], call()[:, 0], call()[:, 0], call()[:, 1]], axis=1)
        found = post(encoded(copies, "FLAC"), channels="separate")
        assert [each["channel"] for each in found["segments"]] == [2, 4, 2]
        assert "1 of 4 channels are copies" in found["warnings"][0]
        plain = post(encoded(call(), "WAV"))
        assert plain["warnings"] == [] and "channel" not in plain["segments"][0]
        for field, value in (
            ("channels", "left"),
            ("audio_track", "0"),
            ("audio_track", "²"),
            ("audio_track", "9" * 99),
        ):
            assert "error" in post(encoded(call(), "WAV"), **{field: value})
        assert "audio track 2" in str(post(encoded(call(), "WAV"), audio_track="2")["error"])
