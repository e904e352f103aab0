"""The pictures of README and docs, drawn from committed results: `python -m benchmarks.reports.pictures`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reports.plots import BLUE, ORANGE, render

ROOT = Path(__file__).resolve().parents[2]
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
SPEECH = {"EmoDB, acted speech": "emodb_two_pass.json", "Erlangen, running speech": "erlangen_held_out.json"}
MARKERS = {"two passes": "o", "one pass": "s", "Whisper base": "^"}
TICKS = (2, 5, 10, 20, 50, 100, 200)
ENCODER, CASE = "encoder_peers_layer_norm.json", "15 s"
ENCODERS = {  # name in the result file to label
    "ours int8": "this engine, int8",
    "ours bf16": "this engine, bf16",
    "openvino int8 MatMul+Conv, bf16": "OpenVINO, int8",
    "openvino int8 MatMul, bf16": "OpenVINO, int8 without convolutions",
    "openvino bf16": "OpenVINO, bf16",
    "sherpa-onnx dynamic int8": "sherpa-onnx, int8",
    "ctranslate2 int8": "CTranslate2, int8",
}
Result = Mapping[str, Any]


def read_quality(result: Result) -> dict[str, tuple[float, float]]:
    """(seconds of audio per CPU second, WER in %) of each system of one run in turn."""
    systems = {"two passes": result, "one pass": result["one_pass"], "Whisper base": result["comparison"]}
    return {name: (system["rtfx_cpu"], 100 * system["wer"]) for name, system in systems.items()}


def read_encoders(result: Result) -> list[tuple[str, float, float | None]]:
    """(label, seconds of audio per CPU second, error of the logits) of each encoder, slowest first."""
    case = result["cases"][CASE]
    rows = [(label, case[name]["rtfx_cpu"], case[name].get("error")) for name, label in ENCODERS.items()]
    return sorted(rows, key=lambda row: row[1])


def plot_quality(results: Mapping[str, Result]) -> bytes:
    """WER against speed: one colour for each corpus, one marker for each system."""

    def draw(axes: Any) -> None:
        for colour, (corpus, result) in zip((BLUE, ORANGE), results.items(), strict=True):
            for name, (rate, wer) in read_quality(result).items():
                axes.scatter(rate, wer, s=60, color=colour, marker=MARKERS[name])
                axes.annotate(name, (rate, wer), (6, 5), textcoords="offset points", fontsize=8)
            axes.plot([], [], "o", color=colour, label=corpus)
        axes.set(xscale="log", xlim=(1.5, 300), ylim=(0, 32), ylabel="word error rate, %")
        axes.set(xlabel="seconds of audio per CPU second, one core (right is faster)")
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.minorticks_off()
        axes.legend(frameon=False, loc="upper left", fontsize=8)

    return render(draw)


def plot_encoders(rows: Sequence[tuple[str, float, float | None]]) -> bytes:
    """Speed of each encoder over the same weights and audio, with the error of its logits."""

    def draw(axes: Any) -> None:
        colours = [BLUE if label.startswith("this engine") else ORANGE for label, _, _ in rows]
        bars = axes.barh([row[0] for row in rows], [row[1] for row in rows], color=colours, height=0.65)
        texts = [f"{rate:.1f}" + (f"  (error {error:.3f})" if error else "") for _, rate, error in rows]
        axes.bar_label(bars, texts, padding=3, fontsize=8)
        axes.set(xlabel="seconds of audio per CPU second, one core (right is faster)", xlim=(0, 38))
        axes.tick_params(axis="y", labelsize=8)

    return render(draw)


def draw_all(images: Path) -> list[Path]:
    """Write every picture into a folder; returns their paths."""

    def read(name: str) -> Result:
        return dict(json.loads((RESULTS / name).read_text(encoding="utf-8")))

    pictures = {
        "quality-speed.png": plot_quality({corpus: read(name) for corpus, name in SPEECH.items()}),
        "encoder-speed.png": plot_encoders(read_encoders(read(ENCODER))),
    }
    images.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        (images / name).write_bytes(content)
    return [images / name for name in pictures]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures of the checkout."""
    parser = argparse.ArgumentParser(description="Draw the pictures of README and docs.")
    parser.add_argument("--output_dir", type=Path, default=IMAGES, metavar="DIR", help="(docs/images)")
    for path in draw_all(parser.parse_args(argv).output_dir):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
