"""A Wav2Vec2 that trains in seconds: the settings of its `scratch` configuration, without dropout."""

from __future__ import annotations

from typing import Any

TINY_WAV2VEC2: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": [32, 32], "conv_kernel": [400, 4], "conv_stride": [160, 2], "num_feat_extract_layers": 2,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0,
    "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.0,
}  # fmt: skip
