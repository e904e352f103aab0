"""What an acoustic export starts from, and what its candidates are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx

from engine.bundle.folder import AcousticConfig
from export.acoustic.mapped import trim_heap
from export.quantization.quantize import Build, FloatArray
from export.verification.audio_cases import Case, case_to_time
from export.verification.verify import MAX_WER_LOSS, Run

PrecisionName = Literal["fp32", "fp16", "int8"]
MAX_PARAMETERS = 480_000_000  # as float32, with the graph, within the 2 GiB of one ONNX file
MAX_MEASURED_ALONE = 200_000_000
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "fp16", "int8")


def is_large(n_parameters: int) -> bool:
    """Whether a model of so many weights is beyond one ONNX file in float32."""
    return n_parameters > MAX_PARAMETERS


def worth_sensitivity(source: AcousticSource) -> bool:
    """Whether each block is measured alone for the card: of 300 million weights, over 20 minutes."""
    return source.n_parameters <= MAX_MEASURED_ALONE


def worth_batches(source: AcousticSource, masked: bool) -> bool:
    """Whether utterances are compared in batches: those of a large model take twenty minutes.

    Args:
        masked: the graph takes a mask. Others get one utterance per call here, and batches elsewhere only.
    """
    return masked or not is_large(source.n_parameters)


@dataclass(frozen=True)
class AcousticSource:
    """A checkpoint, ready to be exported.

    Attributes:
        name: of the checkpoint. licence: of its weights.
        build: makes the graph for a choice of precisions and known ranges.
        reference: the original model, [batch, ...] features to [batch, n_frames, vocab_size] logits.
        vocabulary: tokens by output index.
        config: for the manifest, without precision, exporter and figures.
        about: lines for the model card.
        precisions: those that the graph can be built in.
        ranged: whether build makes use of ranges.
        n_parameters: weights of the model.
        batchable: like build, with an input attention_mask, so that one call may take utterances of
            different lengths; None where the model has no such graph.
        let_go: gives back memory that was freed, and that of weights which can be read again.
    """

    name: str
    licence: str
    build: Build[onnx.ModelProto]
    reference: Run
    vocabulary: tuple[str, ...]
    config: AcousticConfig
    about: Sequence[str] = ()
    precisions: Sequence[PrecisionName] = PRECISIONS
    ranged: bool = True
    n_parameters: int = 0
    batchable: Build[onnx.ModelProto] | None = None
    let_go: Callable[[], None] = trim_heap


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        keep: prefixes of blocks that stay in float32 (layer_0, stem).
        verify_data: manifest of recordings; None: artificial signals like speech.
        min_agreement: instead of the precision's own.
        allow_slower: do not refuse a graph that is slower than float32.
        sensitivity: measure the error that int8 causes in each block, for the card.
        batches: compare utterances in batches too.
        max_wer_loss: the largest acceptable rise of the word error rate, as a fraction.
    """

    precision: PrecisionName | Literal["auto"] = "int8"
    keep: tuple[str, ...] = ()
    verify_data: Path | None = None
    min_agreement: float | None = None
    allow_slower: bool = False
    max_wer_loss: float = MAX_WER_LOSS
    licence: str | None = None
    sensitivity: bool = True
    batches: bool = True


@dataclass(frozen=True)
class Basis:
    """What a graph of any precision is compared with.

    Attributes:
        cases: with the original's logits.
        float_graph: the file of the graph in float32, for sessions that unpack weights.
        blocks: the value that each of its blocks reads.
        convolutions: whether the graph has some over the waveform.
    """

    source: AcousticSource
    cases: Sequence[Case]
    float_graph: Path
    blocks: Mapping[str, str]
    convolutions: bool = False

    @property
    def probe(self) -> FloatArray:
        """The features that speed is measured on."""
        return case_to_time(self.cases).features


@dataclass(frozen=True)
class Candidate:
    """A graph that has not been compared yet.

    Attributes:
        precision: int8, fp16 or fp32. graph: as it will be written. kept: its blocks in float32.
        sensitivity: the error of each block alone, where it was measured.
        source: of this graph; its config may have a mask.
    """

    precision: PrecisionName
    graph: bytes
    kept: Sequence[str]
    source: AcousticSource
    sensitivity: Mapping[str, float] = field(default_factory=dict)
