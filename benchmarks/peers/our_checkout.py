"""The engine of a checkout, by its public stages: `our_checkout.py --checkout PATH --label earlier`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from peer_worker import Loaded, Peer, Run, serve

STAGES = ("features", "encoder", "search", "one pass", "two passes", "line", "lines")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--checkout", required=True, help="folder that holds engine/")
    parser.add_argument("--label", required=True, help="prefix of the names of what it runs")


def capabilities(options: argparse.Namespace) -> Sequence[str]:
    """One name a stage."""
    return [f"{options.label}: {stage}" for stage in STAGES]


def load(options: argparse.Namespace) -> Loaded:
    """The embedded bundle of that checkout, in one process of its own."""
    sys.path.insert(0, options.checkout)
    import engine

    model = engine.load(threads=options.threads or 1)
    return Loaded(
        {f"{options.label}: {stage}": run for stage, run in stages_of(model).items()},
        {"digest": model.signature.split("|")[0]},
    )


def stages_of(model: Any) -> dict[str, Run]:
    """Inputs by stage: waveform float32 [n_samples] at 16 kHz, log_probs [n_frames, vocab_size], or texts."""
    from engine.types import DecodingOptions

    one, two = DecodingOptions(passes=1), DecodingOptions(passes=2)

    def features(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"features": model.compute_features(inputs["waveform"])}

    def encoder(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"log_probs": model.compute_log_probs(model.compute_features(inputs["waveform"]))}

    def search(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"texts": [model.decode(inputs["log_probs"], one).text]}

    def transcribe(options: DecodingOptions) -> Run:
        return lambda inputs: {"texts": [model.transcribe(inputs["waveform"], options=options).text]}

    def translate(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"texts": model.translate_text(inputs["texts"])}

    return {
        "features": features, "encoder": encoder, "search": search, "one pass": transcribe(one),
        "two passes": transcribe(two), "line": translate, "lines": translate,
    }  # fmt: skip


if __name__ == "__main__":
    serve(Peer("engine", "speech", "engine", configure, capabilities, load))
