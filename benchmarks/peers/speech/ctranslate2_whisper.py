"""Whisper through faster-whisper (CTranslate2), from a local folder; transcribes, and translates to English.

    engine-bench --against ctranslate2_whisper --peer_python peers/faster-whisper/bin/python \\
        --peer_args "--model whisper-base-ct2 --compute_type int8 --beam_size 5"

For the task translate it runs twice: German, then English.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faster_whisper
from _audio import Model, Recognise, Stages, serve_speech


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--model", required=True, help="a folder of ct2-transformers-converter")
    parser.add_argument("--compute_type", default="int8")
    parser.add_argument("--beam_size", type=int, default=5, help="(%(default)s, as faster-whisper has it)")
    parser.add_argument("--language", default="de")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def load(options: argparse.Namespace) -> Model:
    """The model, and how it is run."""
    model = faster_whisper.WhisperModel(
        options.model,
        device=options.device,
        compute_type=options.compute_type,
        cpu_threads=options.threads,
        local_files_only=True,
    )
    about = {
        "compute_type": options.compute_type,
        "beam": options.beam_size,
        "device": options.device,
    }
    return Model(recogniser(model, options), Path(options.model), about)


def recogniser(model: Any, options: argparse.Namespace) -> Recognise:
    """From samples to text; "decode" holds features and encoder too."""

    def run(waveform: Any, task: str) -> str:
        segments, _ = model.transcribe(
            waveform, language=options.language, task=task, beam_size=options.beam_size
        )
        return " ".join(segment.text.strip() for segment in segments)

    def recognise(waveform: Any, task: str, stages: Stages) -> tuple[str, str | None]:
        with stages("decode"):
            german = run(waveform, "transcribe")
        if task == "transcribe":
            return german, None
        with stages("translate"):
            return german, run(waveform, "translate")

    return recognise


if __name__ == "__main__":
    versions = f"faster-whisper {faster_whisper.__version__}, ctranslate2 {version('ctranslate2')}"
    serve_speech("ctranslate2_whisper", versions, configure, load, ("transcribe", "translate"))
