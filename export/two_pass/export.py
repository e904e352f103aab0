"""`engine-export two-pass CHECKPOINT OUT`: a recogniser of two passes over one encoder, as one bundle."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.acoustic.model import AcousticModel
from engine.bundle.folder import open_bundle, write_bundle
from engine.bundle.schema import SecondPassConfig
from engine.bundle.target import CARD, FILE_NAMES, check_target
from engine.two_pass.runners import DecoderRunner
from engine.two_pass.tokens import read_tokens
from export.acoustic.export import export_acoustic
from export.acoustic.source import ExportOptions
from export.errors import ExportError
from export.graph.builder import Choice
from export.graph.two_pass import TwoPassGraphs, build_two_pass
from export.layout.describe import add_layout
from export.quantization.exactness import prove_exact
from export.quantization.quantize import choose, measure_sensitivity, search_blocks
from export.rewrites.half_storage import store_half
from export.two_pass.check import (
    MIN_AGREEMENT,
    DecoderCase,
    DecoderFigures,
    build_decoder_cases,
    check_decoder,
    compare_decoder,
    open_decoder_kernels,
    open_decoder_sessions,
)
from export.two_pass.checkpoint import TwoPassSource, load_two_pass
from export.verification.verify import CPU

logger = logging.getLogger("export")
GRAPHS = ("asr_memory", "asr_decoder")
MAX_SEARCH_CASES = 8  # for choosing blocks


@dataclasses.dataclass(frozen=True)
class TwoPassOptions:
    """How to export.

    Attributes:
        acoustic: of the encoder; its precision ("int8" or "fp32") and data hold for the decoder too.
        keep: prefixes of the decoder's blocks that stay in float32 (head layer_0).
        min_agreement: of the decoder's best tokens, instead of the precision's own; then the divergence is
            not checked.
    """

    acoustic: ExportOptions = dataclasses.field(default_factory=ExportOptions)
    keep: tuple[str, ...] = ()
    min_agreement: float | None = None


@dataclasses.dataclass(frozen=True)
class DecoderReport:
    """What was found.

    Attributes:
        backends: the comparison with the original, by backend.
        from_features: share of positions with the same best token, with states of the exported encoder.
        float_blocks: blocks in float32 arithmetic. sensitivity: the error that int8 causes in each block.
        exact_on: the processors on which the integer products are exact, by their weights.
    """

    backends: Mapping[str, DecoderFigures]
    from_features: float = 1.0
    float_blocks: Sequence[str] = ()
    sensitivity: Mapping[str, float] = dataclasses.field(default_factory=dict)
    exact_on: str = ""

    def figures(self) -> dict[str, Any]:
        """For a manifest."""
        return dataclasses.asdict(self)

    def card(self) -> list[str]:
        """As lines of Markdown."""
        lines = ["| backend | utterances | tokens | relative L2 error | divergence, nats "]
        lines[0] += "| same best token | same greedy tokens |"
        lines += ["|---|---:|---:|---:|---:|---:|---:|"]
        for name, one in self.backends.items():
            lines.append(
                f"| {name} | {one.n_utterances} | {one.n_tokens} | {one.error:.2g} | {one.divergence:.2g} | "
                f"{100 * one.agreement:.2f} % | {100 * one.greedy:.2f} % |"
            )
        same = f"{100 * self.from_features:.2f} % same best token."
        lines += ["", f"With the states of the exported encoder: {same}"]
        if self.float_blocks:
            lines.append(f"Float32 arithmetic in: {', '.join(self.float_blocks)}.")
        if self.exact_on:
            lines.append(f"Integer products are exact on: {self.exact_on}.")
        return lines


def export_two_pass(checkpoint: Path, folder: Path, options: TwoPassOptions) -> DecoderReport:
    """Export encoder and decoder, verify both, and write one bundle.

    Raises:
        ExportError: parts that do not fit each other, a failed check, or a full disk; no file is left.
    """
    check_target(folder)
    precision = options.acoustic.precision
    if precision not in MIN_AGREEMENT:
        raise ExportError(f"--precision {precision}", " or ".join(MIN_AGREEMENT), "choose one of these")
    source = load_two_pass(checkpoint)
    try:
        with tempfile.TemporaryDirectory(prefix="export-") as temporary:
            acoustic, decoder = Path(temporary, "acoustic"), Path(temporary, "decoder")
            export_acoustic(source.acoustic, acoustic, options.acoustic)
            report = export_decoder(source, acoustic, decoder, options)
            _write(source, folder, acoustic, decoder, precision, report)
    except OSError as error:
        raise ExportError(
            f"{str(folder)!r} could not be written ({error})", "free space and write access"
        ) from error
    return report


def export_decoder(
    source: TwoPassSource, acoustic: Path, folder: Path, options: TwoPassOptions
) -> DecoderReport:
    """Write the decoder's graphs, embeddings and tokens to a new folder, and verify them.

    Args:
        acoustic: the bundle of the exported encoder, which makes states for the last check.
    Raises:
        ExportError: a failed check.
    """
    folder.mkdir()
    precision = options.acoustic.precision
    cases = build_decoder_cases(source, options.acoustic.verify_data)
    kept: list[str] = []
    sensitivity: dict[str, float] = {}
    if precision == "fp32":
        graphs = build_two_pass(source.decoder, FILE_NAMES["asr_embeddings"])
    else:
        graphs, kept, sensitivity = _quantize(source, options, cases)
    write_graphs(graphs, folder)
    (folder / FILE_NAMES["asr_tokens"]).write_text(
        json.dumps(source.tokens, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    report = _verify(source, acoustic, folder, cases, options)
    return dataclasses.replace(report, float_blocks=kept, sensitivity=sensitivity)


def _verify(
    source: TwoPassSource, acoustic: Path, folder: Path, cases: Sequence[DecoderCase], options: TwoPassOptions
) -> DecoderReport:
    """Compare the written graphs with the original, with each backend that the engine may use."""
    precision, exact = options.acoustic.precision, ""
    config = source.config(precision)
    runner = open_decoder_sessions(folder, config)
    runners: dict[str, DecoderRunner] = {"onnxruntime": runner}
    if precision == "int8":
        exact = ", ".join(sorted({prove_exact(folder / FILE_NAMES[role]) for role in GRAPHS}))
        kernels = open_decoder_kernels(folder, config)
        runners |= {"kernels": kernels} if kernels is not None else {}
    found = {name: compare_decoder(one, config, cases) for name, one in runners.items()}
    for name, one in found.items():
        logger.info("decoder by %s: %s", name, one)
        check_decoder(one, precision, name, options.min_agreement)
    model = AcousticModel(open_bundle(acoustic), CPU)
    heard = [
        dataclasses.replace(case, states=model.compute_states(case.features)[1]) for case in cases
    ]  # fmt: skip
    agreement = compare_decoder(runner, config, heard, greedy=False).agreement
    return DecoderReport(found, agreement, exact_on=exact)


def verify_second_pass(checkpoint: Path, folder: Path, manifest: Path | None = None) -> DecoderReport:
    """Compare the second pass of an existing bundle with its checkpoint.

    Raises:
        ExportError: the bundle differs from the checkpoint. BundleError: the bundle is damaged.
    """
    source, bundle = load_two_pass(checkpoint), open_bundle(folder)
    config = bundle.manifest.second_pass
    if config is None or read_tokens(bundle) != source.tokens:
        raise ExportError(
            f"{str(folder)!r} has other tokens, or no second pass",
            "an export of this checkpoint",
            "check the folders",
        )
    kept = ExportOptions(precision=config.precision, verify_data=manifest)  # type: ignore[arg-type]
    cases = build_decoder_cases(source, manifest)
    return _verify(source, folder, folder, cases, TwoPassOptions(kept))


def write_graphs(graphs: TwoPassGraphs, folder: Path) -> None:
    """Write both graphs and their table; large float constants of quantised graphs as float16."""
    tables = {graphs.tables.write(folder).name: graphs.tables.content()}
    for role, graph in zip(GRAPHS, (graphs.memory, graphs.decoder), strict=True):
        quantized = any(entry.value == "int8" for entry in graph.metadata_props)
        written = store_half(graph) if quantized else graph
        data = add_layout(written.SerializeToString(), role, tables)
        (folder / FILE_NAMES[role]).write_bytes(data)


def _quantize(
    source: TwoPassSource, options: TwoPassOptions, cases: Sequence[DecoderCase]
) -> tuple[TwoPassGraphs, list[str], dict[str, float]]:
    """Graphs with as many int8 blocks as the wanted agreement allows, and the blocks that stay float."""

    def build(precision: Choice, ranges: Any = None) -> tuple[TwoPassGraphs, None]:
        return build_two_pass(source.decoder, FILE_NAMES["asr_embeddings"], precision), None

    def measure(graphs: TwoPassGraphs) -> tuple[float, float]:
        with tempfile.TemporaryDirectory(prefix="export-") as temporary:
            write_graphs(graphs, Path(temporary))
            for role in GRAPHS:
                prove_exact(Path(temporary, FILE_NAMES[role]))
            runner = open_decoder_sessions(Path(temporary), source.config("int8"))
            found = compare_decoder(runner, source.config("int8"), few, greedy=False)
        return found.error, found.agreement

    few = cases[:: max(1, len(cases) // MAX_SEARCH_CASES)]
    blocks = build(choose(()))[0].blocks
    pinned = [block for block in blocks if options.keep and block.startswith(options.keep)]
    candidates = [block for block in blocks if block not in pinned]
    sensitivity = {}
    if options.acoustic.sensitivity:
        logger.info("measuring %d blocks of the decoder, each alone in int8", len(candidates))
        sensitivity = measure_sensitivity(build, candidates, {}, measure)
    wanted = MIN_AGREEMENT["int8"] if options.min_agreement is None else options.min_agreement
    graphs, kept = search_blocks(build, candidates, {}, measure, wanted, sensitivity)
    return graphs, [*pinned, *kept], sensitivity


def _write(
    source: TwoPassSource, folder: Path, acoustic: Path, decoder: Path, precision: str, report: DecoderReport
) -> None:
    bundle = open_bundle(acoustic)
    config = msgspec.structs.replace(source.config(precision), figures=report.figures())
    files = {role: bundle.file(role) for role in ("acoustic", "vocabulary")}
    files |= {role: decoder / FILE_NAMES[role] for role in (*GRAPHS, "asr_embeddings", "asr_tokens")}
    card = (acoustic / CARD).read_text(encoding="utf-8")
    write_bundle(
        folder,
        name=bundle.name,
        licence=bundle.manifest.licence,
        files=files,
        card="\n".join([card.rstrip(), "", *_decoder_card(config, report), ""]),
        acoustic=bundle.manifest.acoustic,
        second_pass=config,
    )


def _decoder_card(config: SecondPassConfig, report: DecoderReport) -> list[str]:
    about = (
        f"An attention decoder over the encoder's states: {config.n_layers} layers of {config.hidden_size}, "
        f"{config.vocab_size} tokens, precision {config.precision}."
    )
    return ["## The second pass against its checkpoint", "", about, "", *report.card()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `engine-export two-pass`, in addition to those of every acoustic export."""
    parser.add_argument(
        "--keep-decoder", nargs="*", default=[], help="blocks of the decoder to keep in float32: head layer_0"
    )
    parser.add_argument(
        "--min-token-agreement", type=float, help="refuse below this share of positions with the same token"
    )


def run(options: argparse.Namespace, acoustic: ExportOptions) -> int:
    """Export, and print the comparison."""
    report = export_two_pass(
        Path(options.checkpoint),
        options.out,
        TwoPassOptions(acoustic, tuple(options.keep_decoder), options.min_token_agreement),
    )
    print("\n".join(report.card()))
    print(f"wrote {options.out}")
    return 0
