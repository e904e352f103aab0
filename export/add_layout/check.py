"""Compares the kernels, which read a graph's new layout table, with onnxruntime, which does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.acoustic.model import AcousticModel
from engine.bundle.folder import Bundle
from engine.bundle.schema import SecondPassConfig
from engine.translation.tokenizer import load_tokenizer
from engine.two_pass.runners import DecoderRunner
from engine.types import RuntimeOptions
from export.errors import ExportError
from export.pair_safe.check import compare_runners
from export.translation.marian import CALIBRATION
from export.translation.runners import open_kernels, open_sessions
from export.two_pass.check import DecoderCase, compare_decoder, open_decoder_kernels, open_decoder_sessions
from export.verification.audio_cases import Case, build_cases
from export.verification.kernel_check import kernel_run
from export.verification.verify import compare, onnx_run, with_logits

# Kernels and onnxruntime round activations differently: by 0.06, 0.28 and 0.01 in the embedded bundle.
MAX_ERROR = {"acoustic": 0.25, "second pass": 0.5, "translation": 0.25}
LENGTH_S = 3.0
N_SENTENCES, N_TOKENS = 6, 24
PARTS = {
    "acoustic": ("acoustic",),
    "second pass": ("asr_memory", "asr_decoder"),
    "translation": ("mt_encoder", "mt_decoder"),
}
BY_ONNXRUNTIME = RuntimeOptions(device="cpu", backend="onnxruntime")


@dataclass(frozen=True)
class Row:
    """One part of a bundle.

    Attributes:
        error: relative L2 error of the kernels' outputs against onnxruntime's; None where the kernels do not
            compute this part on this machine.
    """

    part: str
    error: float | None

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.part}: not compared; the kernels do not compute it on this machine"
        return f"{self.part}: kernels against onnxruntime, relative L2 error {self.error:.2g}"


def compare_layouts(bundle: Bundle) -> tuple[Row, ...]:
    """Run every part of a bundle in both ways.

    Raises:
        ExportError: a part gives other results with the kernels than with onnxruntime.
    """
    compared = {"acoustic": _acoustic, "second pass": _second_pass, "translation": _translation}
    rows = tuple(
        Row(part, compared[part](bundle)) for part, roles in PARTS.items() if bundle.has(roles[0])
    )  # fmt: skip
    bad = [row for row in rows if row.error is not None and not row.error <= MAX_ERROR[row.part]]
    if bad:
        raise ExportError(
            "; ".join(map(str, bad)),
            f"an error of at most {MAX_ERROR[bad[0].part]}",
            "export the checkpoint again",
        )
    return rows


def _cases(bundle: Bundle) -> list[Case]:
    config = bundle.manifest.acoustic
    if config is None:
        raise ExportError("graphs of an acoustic model that the manifest does not describe", "a whole bundle")
    return build_cases(config, lengths_s=[LENGTH_S])


def _acoustic(bundle: Bundle) -> float | None:
    graph = bundle.read("acoustic")
    run = kernel_run(graph)
    return None if run is None else compare(run, with_logits(_cases(bundle), onnx_run(graph)))[0]


def _second_pass(bundle: Bundle) -> float | None:
    config = bundle.manifest.second_pass
    if config is None:
        raise ExportError("graphs of a second pass that the manifest does not describe", "a whole bundle")
    folder = bundle.file("asr_memory").parent
    kernels, sessions = open_decoder_kernels(folder, config), open_decoder_sessions(folder, config)
    if kernels is None:
        return None
    encoder = AcousticModel(bundle, BY_ONNXRUNTIME)
    cases = [_decode(sessions, config, case, encoder) for case in _cases(bundle)]
    return compare_decoder(kernels, config, cases, greedy=False).error


def _decode(
    runner: DecoderRunner, config: SecondPassConfig, case: Case, encoder: AcousticModel
) -> DecoderCase:
    """onnxruntime's results for a signal: greedy tokens, and the log-probabilities after each."""
    states = encoder.compute_states(case.features)[1]
    ids, limit = list(config.prompt), min(N_TOKENS, config.max_tokens)
    steps = runner.start(states, 1, limit, None)
    rows = [*steps.prefill(np.array(ids), None).copy()]
    while len(ids) < limit:
        ids.append(int(rows[-1].argmax()))
        rows.append(steps.step(np.array(ids[-1:]), np.zeros(1, np.int64), None)[0].copy())
    return DecoderCase(case.features, states, ids, np.stack(rows))


def _translation(bundle: Bundle) -> float | None:
    config = bundle.manifest.translation
    if config is None:
        raise ExportError("a translator that the manifest does not describe", "a whole bundle")
    folder: Path = bundle.file("mt_encoder").parent
    kernels, sessions = open_kernels(folder, config), open_sessions(folder, config)
    if kernels is None:
        return None
    encoded: Sequence[list[int]] = load_tokenizer(bundle).encode(CALIBRATION[:N_SENTENCES])
    sources = [[*ids[: config.max_source_tokens - 1], config.eos_id] for ids in encoded]
    return compare_runners("kernels", sessions, kernels, sources, config).error
