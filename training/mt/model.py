"""MarianMTModel's computation arranged for training speed: packed projections, a fused loss, no wrappers.

The weights are those of transformers' MarianMTModel, packed; `from_marian` and `to_marian` convert
exactly. Per target token it costs less than half of the plain model on a CPU: Q, K and V are one
GEMM, the loss has only one chunk of logits in memory and computes its gradient in the forward
pass, and dropout takes eight decisions from each random number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

MASKED = -1e9  # finite, so that a row of padding alone gives no nan
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]]
ACTIVATIONS = {"relu": F.relu, "swish": F.silu, "silu": F.silu, "gelu": F.gelu}
CANDIDATE_STEP = 256  # few different numbers, since products of every new shape have to be prepared
LOSS_CHUNK = 128  # rows of logits in memory at once


class SmoothedCrossEntropy(torch.autograd.Function):
    """Label-smoothed cross-entropy of `hidden @ embedding.T`, summed; gradients in the forward pass.

    Shapes: hidden [N, d], embedding [V, d], target int64 [N] (no padding among them); offset [V] is
    added to every row of logits, or None.
    Returns (smoothed loss, plain negative log-likelihood), both sums; only the first has a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, embedding: Tensor, target: Tensor, smoothing: float, offset: Tensor | None
    ) -> Any:
        grad_hidden = torch.empty_like(hidden)
        grad_embedding = torch.zeros_like(embedding, dtype=torch.float32)
        total, plain = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        vocab_size = embedding.shape[0]
        for start in range(0, len(hidden), LOSS_CHUNK):
            chunk, picked = hidden[start : start + LOSS_CHUNK], target[start : start + LOSS_CHUNK, None]
            n, missing = len(chunk), LOSS_CHUNK - len(chunk)
            if missing:  # the last one: products of a new shape take longer to prepare than to compute
                chunk, picked = F.pad(chunk, (0, 0, 0, missing)), F.pad(picked, (0, 0, 0, missing))
            logits = (chunk @ embedding.t()).float()
            if offset is not None:
                logits += offset
            log_z = torch.logsumexp(logits, -1, keepdim=True)
            nll = (log_z - logits.gather(1, picked))[:n].sum()
            uniform = (log_z[:, 0] - logits.mean(-1))[:n].sum()
            plain += nll
            total += (1 - smoothing) * nll + smoothing * uniform
            grad = logits.sub_(log_z).exp_().sub_(smoothing / vocab_size)
            grad.scatter_add_(1, picked, grad.new_full(picked.shape, smoothing - 1))
            grad[n:] = 0.0
            grad = grad.to(hidden.dtype)
            grad_hidden[start : start + n] = (grad @ embedding)[:n]
            grad_embedding += grad.t() @ chunk
        ctx.save_for_backward(grad_hidden, grad_embedding.to(embedding.dtype))
        return total, plain

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _grad_plain: Tensor) -> Any:
        grad_hidden, grad_embedding = ctx.saved_tensors
        return grad_hidden * grad_total, grad_embedding * grad_total, None, None, None


def drop(x: Tensor, share: float) -> Tensor:
    """Dropout: a share of the values, rounded to 1/256, becomes zero, the others grow by as much.

    A random number of 64 bits decides on eight values, since on a CPU drawing takes longer than multiplying.
    """
    limit = round(share * 256)
    if not limit:
        return x
    numbers = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = numbers.view(torch.uint8)[: x.numel()].view(x.shape) >= limit
    return x * kept.to(x.dtype).mul_(256 / (256 - limit))


class Norm(nn.Module):
    """Layer normalisation over the last dimension, eps 1e-5 as in Marian."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, 1e-5)


class Linear(nn.Linear):
    """nn.Linear without its initialisation; `blocks` says how many matrices are stacked in weight."""

    def __init__(self, d_in: int, d_out: int, blocks: int = 1) -> None:
        super().__init__(d_in, d_out)
        self.blocks = blocks

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        nn.init.zeros_(self.bias)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention. query [B, H, T, dh], key and value [B, H, S, dh]; -> [B, T, H * dh]."""
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2)) + mask
    mixed = torch.matmul(torch.softmax(scores, -1), value)
    return mixed.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one packed Q, K, V projection."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = Linear(d_model, 3 * d_model, blocks=3), Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        packed = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = packed.unbind()  # indices would make three gradients, and add them
        return self.out(attend(query, key, value, mask))


class CrossAttention(nn.Module):
    """Multi-head attention over the encoder's states, K and V packed."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = Linear(d_model, d_model), Linear(d_model, d_model)
        self.kv = Linear(d_model, 2 * d_model, blocks=2)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        packed = self.kv(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key, value = packed.unbind()
        return self.out(attend(query, key, value, mask))


class Layer(nn.Module):
    """A post-norm transformer layer; with cross-attention when it is a decoder's."""

    def __init__(self, d_model: int, heads: int, ffn_dim: int, activation: str, decoder: bool) -> None:
        super().__init__()
        self.dropout = 0.0  # of every branch, while training
        self.attention, self.attention_norm = SelfAttention(d_model, heads), Norm(d_model)
        self.cross = CrossAttention(d_model, heads) if decoder else None
        self.cross_norm = Norm(d_model) if decoder else None
        self.up, self.down, self.ffn_norm = Linear(d_model, ffn_dim), Linear(ffn_dim, d_model), Norm(d_model)
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[activation]

    def forward(
        self, x: Tensor, mask: Tensor, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        share = self.dropout if self.training else 0.0
        x = self.attention_norm(x + drop(self.attention(x, mask), share))
        if self.cross is not None and self.cross_norm is not None:
            x = self.cross_norm(x + drop(self.cross(x, memory, memory_mask), share))
        return self.ffn_norm(x + drop(self.down(self.activation(self.up(x))), share))


class FastMarian(nn.Module):
    """Encoder-decoder with MarianMTModel's exact arithmetic and packed weights; without dropout at first."""

    positions: Tensor

    def __init__(self, config: MarianConfig) -> None:
        super().__init__()
        check_supported(config)
        self.config = config
        self.pad_id, self.start_id = config.pad_token_id, config.decoder_start_token_id
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.embedding = nn.Parameter(torch.randn(config.vocab_size, config.d_model) * config.d_model**-0.5)
        with torch.no_grad():
            self.embedding[self.pad_id] = 0.0
        self.register_buffer("positions", sinusoids(config.max_position_embeddings, config.d_model), False)
        common = (config.d_model, config.encoder_attention_heads, config.encoder_ffn_dim)
        activation = config.activation_function
        self.encoder = nn.ModuleList(
            Layer(*common, activation, decoder=False) for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            Layer(*common, activation, decoder=True) for _ in range(config.decoder_layers)
        )
        self.dropout = 0.0  # of the embeddings and of every branch, while training
        self.computes_in = torch.float32

    def in_bfloat16(self) -> FastMarian:
        """A copy whose layers and states are bfloat16: a third faster on a CPU than autocast, which converts
        before and after every product. Embeddings and positions stay float32, since the gradient of a
        frequent token is a sum of many."""
        twin = FastMarian(self.config)
        twin.load_state_dict(self.state_dict())
        twin.encoder.bfloat16()
        twin.decoder.bfloat16()
        twin.computes_in = torch.bfloat16
        twin.set_dropout(self.dropout)
        return twin.to(self.embedding.device)

    def set_dropout(self, share: float) -> None:
        """Drop so much of the embeddings and of every branch while training."""
        self.dropout = share
        for layer in (*self.encoder, *self.decoder):
            layer.dropout = share

    def scale_branches(self, gain: float) -> None:
        """Make the residual branches small at the start: post-norm layers then train from the first step."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith(("out.weight", "down.weight")):
                    parameter.mul_(gain)

    def freeze_padding(self) -> None:
        """Drop the gradient of the padding row. It starts the decoder, and in Marian it is zero:
        other runtimes (CTranslate2) count on that."""
        if self.embedding.grad is not None:
            self.embedding.grad[self.pad_id] = 0.0

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids int64 [B, T] -> [B, T, d]."""
        x = F.embedding(ids, self.embedding) * self.scale + self.positions[: ids.shape[1]]
        x = x.to(self.computes_in)
        return drop(x, self.dropout) if self.training else x

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Source ids int64 [B, S] -> states [B, S, d] and additive mask [B, 1, 1, S]."""
        x = self.embed(source)
        mask = (source == self.pad_id)[:, None, None, :].to(x.dtype) * MASKED
        for layer in self.encoder:
            x = layer(x, mask)
        return x, mask

    def decode(self, target: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """States [B, T, d] that predict target int64 [B, T], given the tokens before each."""
        start = target.new_full((len(target), 1), self.start_id)
        x = self.embed(torch.cat([start, target[:, :-1]], 1))
        mask = torch.triu(x.new_full((x.shape[1], x.shape[1]), MASKED), 1)
        for layer in self.decoder:
            x = layer(x, mask, memory, memory_mask)
        return x

    def forward(
        self, source: Tensor, target: Tensor, smoothing: float = 0.0, n_sampled: int = 0
    ) -> tuple[Tensor, Tensor, int]:
        """Loss of one batch.

        Args:
            source: int64 [B, S]; target: int64 [B, T] ending in EOS, both padded with pad_id.
            smoothing: probability mass spread over the vocabulary.
            n_sampled: compare with the batch's own target tokens and so many others, drawn at random
                and weighted up, instead of the whole vocabulary; 0 takes the whole.
        Returns:
            Summed smoothed loss, summed negative log-likelihood, number of target tokens.
        """
        states = self.decode(target, *self.encode(source))
        real = (target != self.pad_id).flatten().nonzero()[:, 0]
        hidden = states.flatten(0, 1).index_select(0, real)
        embedding, wanted, offset = self.embedding.to(hidden.dtype), target.flatten()[real], None
        if n_sampled:
            candidates, wanted, offset = sample_vocabulary(wanted, len(embedding), n_sampled)
            embedding = embedding.index_select(0, candidates)
        loss, nll = SmoothedCrossEntropy.apply(hidden, embedding, wanted, smoothing, offset)
        return loss, nll, len(real)


def sample_vocabulary(target: Tensor, vocab_size: int, n_sampled: int) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates of a sampled softmax: every token of the batch, and a uniform sample of the others; from
    CANDIDATE_STEP on a few more, so that the candidates' number is a multiple of it where that can be.

    Args:
        target: int64 [N].
    Returns:
        Token ids int64 [n], target as positions among them [N], and what to add to their logits [n]:
        log(others / sampled) for the sampled ones, so that they represent all others.
    """
    present = torch.zeros(vocab_size, dtype=torch.bool, device=target.device).index_fill_(0, target, True)
    own, others = present.nonzero()[:, 0], (~present).nonzero()[:, 0]
    if n_sampled >= CANDIDATE_STEP:
        n_sampled += -(len(own) + n_sampled) % CANDIDATE_STEP
    drawn = others[torch.randperm(len(others), device=target.device)[:n_sampled]]
    candidates = torch.cat([own, drawn])
    position = torch.zeros(vocab_size, dtype=torch.int64, device=target.device)
    position[candidates] = torch.arange(len(candidates), device=target.device)
    offset = torch.zeros(len(candidates), device=target.device)
    offset[len(own) :] = math.log(len(others) / max(1, len(drawn)))
    return candidates, position[target], offset


def check_supported(config: MarianConfig) -> None:
    """Refuse Marian variants with other arithmetic than this module's.

    Raises:
        ValueError: names every unsupported setting.
    """
    problems = []
    if not config.share_encoder_decoder_embeddings or not config.tie_word_embeddings:
        problems.append("embeddings that are not shared by encoder, decoder and output")
    if config.encoder_attention_heads != config.decoder_attention_heads:
        problems.append("different numbers of attention heads")
    if config.encoder_ffn_dim != config.decoder_ffn_dim:
        problems.append("different feed-forward widths")
    if problems:
        raise ValueError(f"cannot train this model: {', '.join(problems)}; use a Marian model without these")


def sinusoids(n_positions: int, d_model: int) -> Tensor:
    """Marian's position table [n_positions, d_model]: sines in the first half, cosines in the second."""
    inverse = 10000 ** (-2 * torch.arange(d_model // 2, dtype=torch.float64) / d_model)
    angles = torch.arange(n_positions, dtype=torch.float64)[:, None] * inverse
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def from_marian(model: MarianMTModel) -> FastMarian:
    """Pack the weights of a MarianMTModel."""
    fast = FastMarian(model.config)
    state = model.state_dict()
    packed = {"embedding": state["model.shared.weight"]}
    for name, sources in _weight_map(fast).items():
        packed[name] = torch.cat([state[source] for source in sources])
    fast.load_state_dict(packed)
    return fast


def to_marian(fast: FastMarian) -> MarianMTModel:
    """Unpack the weights into a MarianMTModel (float32, CPU, evaluation mode)."""
    model = MarianMTModel(fast.config).eval()
    weights = {name: tensor.detach().float().cpu() for name, tensor in fast.state_dict().items()}
    state = {"model.shared.weight": weights["embedding"]}
    for name, targets in _weight_map(fast).items():
        state.update(zip(targets, weights[name].chunk(len(targets)), strict=True))
    left_over = model.load_state_dict(state, strict=False)
    if left_over.unexpected_keys:
        raise ValueError(f"weights without a place in MarianMTModel: {left_over.unexpected_keys}")
    model.tie_weights()
    return model


_ATTENTION = (("qkv", ("q_proj", "k_proj", "v_proj")), ("out", ("out_proj",)))
_CROSS = (("query", ("q_proj",)), ("kv", ("k_proj", "v_proj")), ("out", ("out_proj",)))


def _weight_map(fast: FastMarian) -> dict[str, list[str]]:
    """Names here -> names in MarianMTModel, stacked along the first dimension."""
    names: dict[str, list[str]] = {}
    for side in ("encoder", "decoder"):
        for index in range(len(getattr(fast, side))):
            here, there = f"{side}.{index}.", f"model.{side}.layers.{index}."
            parts = [(f"attention.{a}", [f"self_attn.{b}" for b in bs]) for a, bs in _ATTENTION]
            parts += [("attention_norm", ["self_attn_layer_norm"]), ("up", ["fc1"]), ("down", ["fc2"])]
            parts += [("ffn_norm", ["final_layer_norm"])]
            if side == "decoder":
                parts += [(f"cross.{a}", [f"encoder_attn.{b}" for b in bs]) for a, bs in _CROSS]
                parts += [("cross_norm", ["encoder_attn_layer_norm"])]
            for name, targets in parts:
                for kind in ("weight", "bias"):
                    names[f"{here}{name}.{kind}"] = [f"{there}{target}.{kind}" for target in targets]
    return names
