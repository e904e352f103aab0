"""The memory estimate: the large models' promises, and a small model's real bytes."""

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from benchmarks.kernels.training_memory import calculate_xlsr, measure_apart  # noqa: E402
from training.asr.memory import Shape, count_parameters, estimate_memory  # noqa: E402
from training.asr.model import Batch, compute_ctc, compute_logits  # noqa: E402

CONVS = ((512,) * 7, (5, 2, 2, 2, 2, 2, 2))
XLSR_300M = Shape(1024, 4096, 24, 16, *CONVS)
XLSR_1B = Shape(1280, 5120, 48, 16, *CONVS)
GB = 2**30


def test_xls_r_300m_fits_eight_gigabytes():
    n_trained = 311_000_000  # all but the frozen convolutions
    estimate = estimate_memory(
        315_500_000, n_trained, XLSR_300M, 24.0, gradient_checkpointing=True, longest_s=12.0
    )
    assert estimate.total * 1.1 < 8 * GB
    assert (
        estimate_memory(315_500_000, n_trained, XLSR_300M, 60.0).total > 8 * GB
    )  # and so it must be configured


def test_xls_r_1b_fits_24_gigabytes_with_8_bit_states():
    settings = {"gradient_checkpointing": True, "longest_s": 12.0}
    eight_bit = estimate_memory(963_000_000, 958_000_000, XLSR_1B, 24.0, optimizer_8bit=True, **settings)
    assert eight_bit.total * 1.1 < 24 * GB
    assert "total" in str(eight_bit)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_near_what_a_small_model_keeps(checkpointing):
    config = transformers.Wav2Vec2Config(
        vocab_size=32, hidden_size=64, num_hidden_layers=6, num_attention_heads=4, intermediate_size=256,
        conv_dim=(32, 32), conv_kernel=(400, 4), conv_stride=(160, 2), num_feat_extract_layers=2,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, layerdrop=0.0, mask_time_prob=0.0, hidden_dropout=0.0,
        activation_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForCTC(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    seconds = 10.0
    batch = Batch.of(
        [np.random.default_rng(0).standard_normal(int(seconds * 16_000)).astype(np.float32)], [[1, 2]]
    )
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, frames = compute_logits(model, batch)
        compute_ctc(logits, frames, batch.labels)
    real = sum(size for place, size in kept.items() if place not in weights)
    n_parameters, n_trained = count_parameters(model)
    estimate = estimate_memory(
        n_parameters, n_trained, Shape.of(config), seconds, bf16=False, gradient_checkpointing=checkpointing,
        frozen_front_end=False, longest_s=seconds,
    )  # fmt: skip
    assert 0.5 * real < estimate.activations < 2.5 * real
    assert n_trained == n_parameters and estimate.optimizer == 8 * n_parameters


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_estimate_agrees_with_the_peak_of_a_real_run_of_a_scaled_model():
    """The trainer with the 300M model's settings, in fp32: from a tenth below to four tenths above."""
    found = measure_apart("small, fp32")
    assert found is not None
    assert 0.9 < found["ratio"] < 1.4
    assert found["measured_gb"] > 0.2  # it did run


def test_the_shipped_configurations_fit_their_cards():
    found = calculate_xlsr()
    assert found["xls-r-300m"] * 1.1 < 8.0 and found["xls-r-1b"] * 1.1 < 24.0
