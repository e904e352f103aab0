"""The layout table: what the blocks of an exported graph are, and which constants hold their weights.

`export/` writes it as JSON into the ONNX `metadata_props` under KEY; `engine.native` computes a graph from
the table and the constants alone. The nodes are for onnxruntime, which runs the same file without the table.
Every field that ends in a name is the name of an initializer; "" where there is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from engine.errors import LayoutError
from engine.runtime.onnx_file import OnnxGraph

KEY = "engine.layout"
REVISION = 1  # of the structs below; raised when an older engine would misread a table
MAX_UNUSED = 64  # elements of a constant that only onnxruntime needs: shapes, axes, steps of activations
FIX = "run `engine-export layout BUNDLE OUT`, or export the checkpoint again"

Positive = Annotated[int, msgspec.Meta(gt=0)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A block."""


class LinearSpec(_Spec, frozen=True):
    """y = x @ W + bias, with W float32 [n_in, n_out], or int8 codes times a scale.

    Attributes:
        weight: floats (float32 or float16) where there is no scale, else int8.
        stored: how the file holds W: as it is; "turned", [n_out, n_in]; or as the "kernel" of a convolution,
            [n_out, n_channels, width], whose rows of W are ordered (tap, channel).
        scale: of the codes, one value or n_out. zero: int8 zeros, for operators that want a zero point.
        bias: float [n_out].
        integer: the graph multiplies integers.
        shift: float [n_out], which takes away what adding `raised` to every row before it is rounded adds;
            the kernels do not need it.
    """

    n_in: Positive
    n_out: Positive
    weight: Name
    stored: Literal["plain", "turned", "kernel"] = "plain"
    scale: str = ""
    zero: str = ""
    bias: str = ""
    integer: bool = False
    shift: str = ""
    raised: float = 0.0


class NormSpec(_Spec, frozen=True):
    """A layer norm: weight and bias float [n_channels], epsilon added to the variance."""

    n_channels: Positive
    weight: Name
    bias: Name
    epsilon: Annotated[float, msgspec.Meta(ge=0)]


class TableSpec(_Spec, frozen=True):
    """Rows [n_rows, n_columns]: floats, or integers times a scale (one value, or one for each row)."""

    n_rows: Positive
    n_columns: Positive
    values: Name
    scale: str = ""


class ConvSpec(_Spec, frozen=True):
    """A convolution over rows of channels as a product over windows of width * n_channels values.

    Attributes:
        norm: a layer norm behind it. over_time: a norm over time behind it, with one channel a group; the
            convolution then has no bias.
    """

    width: Positive
    stride: Positive
    n_channels: Positive
    product: LinearSpec
    norm: NormSpec | None = None
    over_time: NormSpec | None = None


class PositionalConvSpec(_Spec, frozen=True):
    """wav2vec2's grouped convolution over time, padded to keep the length.

    Attributes:
        weight: with size = n_channels / n_groups, floats [n_channels, size, width]; or, where there are
            block_taps, [n_groups, block_taps * size, width / block_taps * size].
        bias: float [n_channels].
    """

    n_channels: Positive
    n_groups: Positive
    width: Positive
    weight: Name
    bias: Name
    block_taps: Annotated[int, msgspec.Meta(ge=0)] = 0


class WaveformStemSpec(_Spec, frozen=True, tag_field="kind", tag="waveform"):
    """wav2vec2's convolutions, each with a GELU, its feature projection and its positional convolution."""

    convs: list[ConvSpec]
    projection: LinearSpec
    positions: PositionalConvSpec
    projection_norm: NormSpec | None = None
    position_norm: NormSpec | None = None


class MelStemSpec(_Spec, frozen=True, tag_field="kind", tag="mel"):
    """Whisper's two convolutions of padding 1, each with a GELU, and its table of positions."""

    first: ConvSpec
    second: ConvSpec
    positions: TableSpec


class SinksSpec(_Spec, frozen=True):
    """Learned keys and values [1, n_heads, n_sinks, head_dim] for every frame; bias [n_sinks]."""

    n_sinks: Positive
    keys: Name
    values: Name
    bias: Name


class EncoderLayerSpec(_Spec, frozen=True):
    """Self-attention and a feed-forward block with a GELU, both with residuals.

    Attributes:
        norm_first: norms are before the blocks, else behind the residual sums.
        outlier_in, outlier_out: a second feed-forward block over the same rows, in float.
    """

    n_heads: Positive
    norm_first: bool
    attention_norm: NormSpec
    qkv: LinearSpec
    output: LinearSpec
    feed_norm: NormSpec
    feed_in: LinearSpec
    feed_out: LinearSpec
    outlier_in: LinearSpec | None = None
    outlier_out: LinearSpec | None = None
    sinks: SinksSpec | None = None


class LstmSpec(_Spec, frozen=True):
    """A bidirectional LSTM with ONNX's order of gates.

    Attributes:
        weight, recurrent: floats [2, 4 * size, n]; or, where there are scales [2, 4 * size], int8
            [2, n, 4 * size].
        bias: float [2, 8 * size], of input and of state. weight_zero, recurrent_zero: int8 zeros.
    """

    n_in: Positive
    size: Positive
    weight: Name
    recurrent: Name
    bias: Name
    weight_scale: str = ""
    recurrent_scale: str = ""
    weight_zero: str = ""
    recurrent_zero: str = ""


class EncoderSpec(_Spec, frozen=True, tag_field="kind", tag="encoder"):
    """Features to logits.

    Attributes:
        norm: behind the last layer. lstm: between it and the output layer.
        gives_states: an output "states" holds what the norm makes.
    """

    input_name: Name
    stem: WaveformStemSpec | MelStemSpec
    layers: list[EncoderLayerSpec]
    output: LinearSpec
    norm: NormSpec | None = None
    lstm: LstmSpec | None = None
    gives_states: bool = False


class EmbeddingSpec(_Spec, frozen=True):
    """Tokens [vocab_size, d] as int8 times a scale (one value, or one for each row), and their positions."""

    tokens: TableSpec
    positions: TableSpec


class CrossSpec(_Spec, frozen=True):
    """Attention to what an encoder gave: its keys and values are computed by the memory's graph."""

    norm: NormSpec
    query: LinearSpec
    output: LinearSpec


class SequenceLayerSpec(_Spec, frozen=True):
    """A layer over tokens: self-attention, attention to the source in decoders, and a feed-forward block."""

    n_heads: Positive
    norm: NormSpec
    qkv: LinearSpec
    output: LinearSpec
    feed_norm: NormSpec
    feed_in: LinearSpec
    feed_out: LinearSpec
    cross: CrossSpec | None = None


Activation = Literal["relu", "swish", "gelu"]


class MemorySpec(_Spec, frozen=True, tag_field="kind", tag="memory"):
    """An encoder's states to keys and values of each decoder layer, joined [d, 2 * d]."""

    layers: list[LinearSpec]


class DecoderSpec(_Spec, frozen=True, tag_field="kind", tag="decoder"):
    """The attention decoder of a second pass: norms come first, logits are against the embeddings."""

    embeddings: EmbeddingSpec
    layers: list[SequenceLayerSpec]
    activation: Activation
    norm: NormSpec
    head: LinearSpec


class MarianEncoderSpec(_Spec, frozen=True, tag_field="kind", tag="marian_encoder"):
    """A translator's encoder, norms behind the sums; memory: keys and values of each decoder layer."""

    embeddings: EmbeddingSpec
    layers: list[SequenceLayerSpec]
    activation: Activation
    memory: list[LinearSpec]


class MarianDecoderSpec(_Spec, frozen=True, tag_field="kind", tag="marian_decoder"):
    """A translator's decoder; banned: a row [vocab_size] of 0 and -inf, added to log-probabilities."""

    embeddings: EmbeddingSpec
    layers: list[SequenceLayerSpec]
    activation: Activation
    head: LinearSpec
    banned: str = ""


class OtherSpec(_Spec, frozen=True, tag_field="kind", tag="other"):
    """A graph with parts that no block above describes; why: which."""

    why: str


ModelSpec = (
    EncoderSpec | MemorySpec | DecoderSpec | MarianEncoderSpec | MarianDecoderSpec | OtherSpec
)  # fmt: skip


class _Revision(msgspec.Struct):
    revision: int


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """The table as it is written; model: a ModelSpec. unused: constants that only onnxruntime needs."""

    revision: int
    digest: str
    unused: list[str]
    model: msgspec.Raw


class Layout(msgspec.Struct, frozen=True):
    """A table that belongs to its graph: the blocks, and the names of the constants that no block has."""

    model: ModelSpec
    unused: tuple[str, ...]


def encode_layout(layout: Layout, graph: OnnxGraph) -> str:
    """The table as JSON, sealed to the graph."""
    model, unused = msgspec.json.encode(layout.model), list(layout.unused)
    digest = compute_digest(graph, model, unused)
    return msgspec.json.encode(_Envelope(REVISION, digest, unused, msgspec.Raw(model))).decode()


def read_layout(graph: OnnxGraph) -> Layout:
    """The table of a graph.

    Raises:
        LayoutError: there is none, it is of another revision or no table at all, or it belongs to another
            graph.
    """
    text = graph.metadata.get(KEY)
    if text is None:
        raise LayoutError("the graph has no layout table", "a table that says what its blocks are", FIX)
    try:
        revision = msgspec.json.decode(text, type=_Revision).revision
        if revision != REVISION:
            raise LayoutError(
                f"a layout table of revision {revision}",
                f"revision {REVISION}",
                f"upgrade the engine, or {FIX}",
            )
        envelope = msgspec.json.decode(text, type=_Envelope)
        model = msgspec.json.decode(envelope.model, type=ModelSpec)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise LayoutError(f"a layout table that cannot be read ({error})", "its schema", FIX) from error
    absent = [name for name in envelope.unused if name not in graph.constants]
    if absent:
        raise LayoutError(f"a layout table that names {absent[0]!r}", "constants of the graph", FIX)
    if envelope.digest != compute_digest(graph, bytes(envelope.model), envelope.unused):
        raise LayoutError("a layout table of another graph", "the table of this one", FIX)
    return Layout(model, tuple(envelope.unused))


def compute_digest(graph: OnnxGraph, model: bytes, unused: Sequence[str]) -> str:
    """SHA-256 of what a table claims, and of the nodes and small constants that it was read from."""
    digest = hashlib.sha256(graph.digest + model)
    for name in unused:
        array = graph.constants[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes() if array.size <= MAX_UNUSED else b"")
    return digest.hexdigest()
