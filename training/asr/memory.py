"""An estimate of a run's memory, before it starts."""

from __future__ import annotations

import dataclasses

from torch import nn

from training.asr.conformer import ConformerConfig


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by purpose; `total` is their sum."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "activations", "total")
        return ", ".join(f"{name} {getattr(self, name) / 2**30:.2f} GB" for name in parts)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes that an encoder's activations depend on.

    Attributes:
        frames_per_s: encoder frames per second of audio.
        states, inners: tensors of the width of hidden_size and of intermediate_size that a layer stores for
            the backward pass: norms, q, k, v, context, output, residuals; the two sides of GELU or SiLU.
    """

    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    conv_channels: tuple[int, ...]
    conv_strides: tuple[int, ...]
    layer_norm_convs: bool = True
    frames_per_s: int = 50
    states: int = 9
    inners: int = 3

    @classmethod
    def of(cls, config: object) -> Shape:
        """Take the sizes from a transformers Wav2Vec2Config or a ConformerConfig."""
        if isinstance(config, ConformerConfig):
            return cls(
                config.hidden_size, config.intermediate_size, config.n_layers, config.n_heads,
                (config.hidden_size,) * 2, (2 * config.hop_length, 2), False, 25, states=26, inners=6,
            )  # fmt: skip
        get = lambda name: getattr(config, name)  # noqa: E731
        return cls(
            get("hidden_size"), get("intermediate_size"),
            get("num_hidden_layers"), get("num_attention_heads"),
            tuple(get("conv_dim")), tuple(get("conv_stride")), get("feat_extract_norm") == "layer",
        )  # fmt: skip


def estimate_memory(  # noqa: PLR0913  - what memory depends on, by keyword
    n_parameters: int,
    n_trained: int,
    shape: Shape,
    batch_s: float,
    *,
    bf16: bool = True,
    gradient_checkpointing: bool = False,
    frozen_front_end: bool = True,
    optimizer_8bit: bool = False,
    longest_s: float = 15.0,
) -> MemoryEstimate:
    """Estimate the memory of one optimiser step.

    Args:
        n_parameters, n_trained: all parameters, and those that get gradients.
        shape: the encoder's sizes.
        batch_s: padded seconds of audio in a micro batch.
        bf16: activations take 2 bytes instead of 4; weights stay float32, with a bf16 copy during a step.
        gradient_checkpointing: store one state per layer, recompute the rest.
        frozen_front_end: the convolutions store nothing for the backward pass.
        optimizer_8bit: 2 bytes per trained parameter for AdamW's states instead of 8.
        longest_s: length of the longest clip; the fused attention has no score matrix, so it
            matters only for the float32 CTC lattice.
    Returns:
        Bytes; the allocator needs about a tenth more.
    """
    width = 2 if bf16 else 4
    frames = int(batch_s * shape.frames_per_s)
    state = frames * shape.hidden_size * width
    inner = frames * shape.intermediate_size * width
    per_layer = shape.states * state + shape.inners * inner
    kept = shape.n_layers * state + per_layer if gradient_checkpointing else shape.n_layers * per_layer
    lattice = frames * 40 * 4 * 4 + int(longest_s) * 50 * 4
    working_copy = n_parameters * 2 if bf16 else 0
    return MemoryEstimate(
        weights=n_parameters * 4 + working_copy,
        gradients=n_trained * 4,
        optimizer=n_trained * (2 if optimizer_8bit else 8),
        activations=_activation_bytes(shape, batch_s, width, frozen_front_end, kept + lattice, n_trained * 4),
    )


def _activation_bytes(
    shape: Shape, batch_s: float, width: int, frozen_front_end: bool, encoder: int, gradients: int
) -> int:
    """Bytes of activations at the peak.

    A trained front end stores all its layers' outputs until the backward pass. A frozen one stores nothing,
    but for a moment it needs its widest layer's output several times (convolved, transposed, normed in
    float32). That can be more than encoder and gradients take together, which are allocated later.
    """
    rate, sizes = 16_000.0, []
    for channels, stride in zip(shape.conv_channels, shape.conv_strides, strict=True):
        rate /= stride
        sizes.append(int(batch_s * rate * channels * width))
    if frozen_front_end:
        return max(encoder, 4 * max(sizes) - gradients)
    copies = 3 if shape.layer_norm_convs else 2  # convolution, norm, GELU
    return encoder + copies * sum(sizes)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the number of all parameters and of those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
