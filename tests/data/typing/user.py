"""A user's file, as mypy --strict sees it; each line that it must refuse names the error after `# E:`."""

from io import BytesIO
from pathlib import Path

import numpy as np

import engine
from engine import (
    AudioError,
    AudioSource,
    CancelToken,
    DecodingOptions,
    EndpointOptions,
    EngineError,
    Partial,
    SearchOptions,
    SpeechTranslator,
    StreamEvent,
    Transcript,
    Translation,
)


def all_jobs(translator: SpeechTranslator, waveform: np.ndarray) -> list[str]:
    options = DecodingOptions(beam_width=8, hotwords=["Rothenburg"], passes=2, numbers="digits")
    fast = options.replace(search=SearchOptions(passes=1))
    token = CancelToken()
    sources: list[AudioSource] = ["a.wav", Path("b.flac"), b"RIFF", BytesIO(b"RIFF"), waveform]
    transcript: Transcript = translator.transcribe(waveform, 48_000, options=fast, cancel=token)
    translation: Translation = translator.translate(
        Path("a.wav"), hotwords=["x"], progress=lambda done, total: None
    )
    texts = [transcript.text, translation.source.text]
    for result in translator.transcribe_batch(sources, sample_rate=16_000, hotwords=["x"], cancel=token):
        texts.append(str(result) if isinstance(result, EngineError) else result.text)
    with translator.open_stream(16_000, task="translate", endpoint=EndpointOptions(pause_s=0.5)) as stream:
        events: list[StreamEvent] = stream.feed(waveform)
        texts += [event.text for event in [*events, *stream.finish()] if event.kind == "final"]
    for partial in translator.stream([waveform], 16_000, options=options, cancel=token):
        texts.append(heard(partial))
    english: list[str] = translator.translate_text(texts, options, cancel=token)
    for word in transcript.words:
        english.append(f"{word.text} {word.start_s + 0.5:.1f}")
    engine.write(translation, Path("a.srt"))
    return english


def heard(partial: Partial) -> str:
    return partial.stable_text


def load() -> SpeechTranslator | None:
    try:
        return engine.load(Path("model"), device="cpu", compute_type="int8", threads=1, backend="kernels")
    except AudioError as error:
        print(error.got, error.want, error.fix)
        return None


def refused(translator: SpeechTranslator) -> None:
    engine.laod()  # E: attr-defined
    engine.load(device="gpu")  # E: arg-type
    engine.load(backend="torch")  # E: arg-type
    DecodingOptions(passes=3)  # E: arg-type
    DecodingOptions(beamwidth=3)  # E: call-arg
    DecodingOptions(numbers="roman")  # E: arg-type
    translator.transcribe(3)  # E: arg-type
    translator.open_stream(task="sing")  # E: arg-type
    translator.transcribe("a.wav", beam_size=3)  # E: call-arg
    print(translator.transcribe("a.wav").txt)  # E: attr-defined
