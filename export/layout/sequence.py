"""The layout of encoder-decoder models: a second pass's decoder, and a Marian translator."""

from __future__ import annotations

from engine.bundle.layout import (
    Activation,
    CrossSpec,
    DecoderSpec,
    EmbeddingSpec,
    LinearSpec,
    MarianDecoderSpec,
    MarianEncoderSpec,
    MemorySpec,
    NormSpec,
    SequenceLayerSpec,
    TableSpec,
)
from engine.runtime.onnx_file import Node
from export.layout.scopes import Held, Scopes, UndescribedError

ROOT = ""  # the translator's graphs have no scopes: their layers come in order
ACTIVATIONS: dict[str, Activation] = {"Relu": "relu", "Sigmoid": "swish", "Gelu": "gelu"}
ENCODER_PRODUCTS, DECODER_PRODUCTS = 4, 6  # of a layer


def describe_memory(scopes: Scopes) -> MemorySpec:
    """Keys and values of every decoder layer, from an encoder's states."""
    layers = [scopes.product(f"{name}/memory") for name in scopes.numbered("layer_{}/memory")]
    if not layers:
        raise UndescribedError("no layers")
    return MemorySpec(layers)


def describe_decoder(scopes: Scopes) -> DecoderSpec:
    """The attention decoder of a second pass."""
    layers = [_describe_layer(scopes, name) for name in scopes.numbered("layer_{}/self")]
    gathers = scopes.nodes("embeddings", "Gather")
    lookups = [node for node in gathers if node.inputs[1] == "input_ids"]
    places = [node for node in gathers if node.inputs[1] == "positions"]
    if not layers or not lookups or len(places) != 1:
        raise UndescribedError("no layers, no embeddings or no positions")
    scale = scopes.name(lookups[1].inputs[0]) if len(lookups) == 2 else ""
    tokens = _table(scopes, lookups[0], scale)
    return DecoderSpec(
        EmbeddingSpec(tokens, scopes.table(places[0].inputs[0])),
        layers,
        "gelu",
        scopes.norm("head"),
        scopes.product("head"),
    )


def _describe_layer(scopes: Scopes, scope: str) -> SequenceLayerSpec:
    heads = {
        int(scopes.node(f"{scope}/{part}", "MultiHeadAttention").attributes["num_heads"])
        for part in ("self", "cross")
    }
    if len(heads) != 1:
        raise UndescribedError(f"attention of {sorted(heads)} heads in {scope!r}")
    scopes.node(f"{scope}/feed_in", "Gelu")
    query = f"{scope}/cross/query"
    return SequenceLayerSpec(
        heads.pop(),
        scopes.norm(f"{scope}/self/qkv"),
        scopes.product(f"{scope}/self/qkv"),
        scopes.product(f"{scope}/self/output"),
        scopes.norm(f"{scope}/feed_in"),
        scopes.product(f"{scope}/feed_in"),
        scopes.product(f"{scope}/feed_out"),
        CrossSpec(scopes.norm(query), scopes.product(query), scopes.product(f"{scope}/cross/output")),
    )


def describe_marian_encoder(scopes: Scopes) -> MarianEncoderSpec:
    """A translator's encoder, with the memory of its decoder's layers."""
    products, norms, heads = _parts(scopes)
    n_layers = len(norms) // 2
    n_memory = len(products) - ENCODER_PRODUCTS * n_layers
    if n_memory < 1 or len(norms) != 2 * n_layers or len(heads) != n_layers:
        raise UndescribedError(f"an encoder of {len(products)} linear layers and {len(norms)} norms")
    layers = []
    for i in range(n_layers):
        qkv, output, feed_in, feed_out = products[ENCODER_PRODUCTS * i : ENCODER_PRODUCTS * (i + 1)]
        norm, feed_norm = norms[2 * i : 2 * i + 2]
        layers.append(SequenceLayerSpec(heads[i], norm, qkv, output, feed_norm, feed_in, feed_out))
    embeddings, activation = _embeddings(scopes), _activation(scopes)
    return MarianEncoderSpec(embeddings, layers, activation, products[ENCODER_PRODUCTS * n_layers :])


def describe_marian_decoder(scopes: Scopes) -> MarianDecoderSpec:
    """A translator's decoder."""
    products, norms, heads = _parts(scopes)
    n_layers = len(norms) // 3
    sizes = len(products), len(norms), len(heads)
    if sizes != (DECODER_PRODUCTS * n_layers + 1, 3 * n_layers, 2 * n_layers):
        raise UndescribedError(f"a decoder of {len(products)} linear layers and {len(norms)} norms")
    layers = []
    for i in range(n_layers):
        qkv, output, query, mixed, feed_in, feed_out = products[
            DECODER_PRODUCTS * i : DECODER_PRODUCTS * (i + 1)
        ]
        norm, cross_norm, feed_norm = norms[3 * i : 3 * i + 3]
        if heads[2 * i] != heads[2 * i + 1]:
            raise UndescribedError(f"attention of {heads[2 * i]} and {heads[2 * i + 1]} heads in layer {i}")
        cross = CrossSpec(cross_norm, query, mixed)
        layers.append(
            SequenceLayerSpec(heads[2 * i], norm, qkv, output, feed_norm, feed_in, feed_out, cross)
        )  # fmt: skip
    return MarianDecoderSpec(
        _embeddings(scopes), layers, _activation(scopes), products[-1], _banned(scopes, products[-1].n_out)
    )


def _parts(scopes: Scopes) -> tuple[list[LinearSpec], list[NormSpec], list[int]]:
    """Linear layers, norms and heads of each attention, in order."""
    attention = scopes.nodes(ROOT, "MultiHeadAttention")
    heads = [int(node.attributes["num_heads"]) for node in attention]
    return scopes.products(ROOT), scopes.norms(ROOT), heads


def _activation(scopes: Scopes) -> Activation:
    """Of the feed-forward blocks; swish is written as x * sigmoid(x)."""
    for kind, name in ACTIVATIONS.items():
        if scopes.nodes(ROOT, kind):
            return name
    raise UndescribedError("no activation")


def _embeddings(scopes: Scopes) -> EmbeddingSpec:
    """The table that input_ids look up, its scales, and the positions."""
    gathers = scopes.nodes(ROOT, "Gather")
    lookups = [n for n in gathers if n.inputs[1] == "input_ids"]
    places = [n for n in gathers if n.inputs[1] == "position"]
    places += [n for n in scopes.nodes(ROOT, "Slice") if scopes.find(n.inputs[0]) is not None]
    if not lookups or not places:
        raise UndescribedError("no embeddings or no positions")
    one = [n for n in scopes.nodes(ROOT, "DequantizeLinear") if n.inputs[0] == lookups[0].outputs[0]]
    scale = one[0].inputs[1] if one else lookups[-1].inputs[0] if len(lookups) > 1 else ""
    tokens = _table(scopes, lookups[0], scopes.name(scale) if scale else "")
    return EmbeddingSpec(tokens, scopes.table(places[0].inputs[0]))


def _table(scopes: Scopes, lookup: Node, scale: str) -> TableSpec:
    held: Held = scopes.held(lookup.inputs[0])
    shape = scopes.array(held.name).shape
    if len(shape) != 2 or held.turned or held.scale:
        raise UndescribedError(f"an embedding table {held.name!r} in another form")
    return TableSpec(*shape, held.name, scale)


def _banned(scopes: Scopes, vocab_size: int) -> str:
    """The row that makes the log-probability of some tokens -inf."""
    for node in scopes.nodes(ROOT, "Add"):
        for name in node.inputs:
            held = scopes.find(name) if "banned" in name else None
            if held is not None and scopes.array(held.name).shape == (vocab_size,):
                return held.name
    return ""
