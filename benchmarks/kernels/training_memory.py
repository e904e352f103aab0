"""The memory estimate of `training asr --estimate` against the memory of real runs of smaller models.

    python -m benchmarks.kernels.training_memory --json benchmarks/results/training_memory.json

Each run is a separate process on the CPU: the real trainer, the settings of asr_xlsr_300m.yaml
(checkpointing, frozen front end, bf16, batches of 24 s), a model of the same form with fewer and narrower
layers. Measured is the peak of the resident memory over what the process held with everything imported.
Large blocks are taken from the system one by one, so that the allocator's free lists do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.reports.provenance import provenance
from export.acoustic.quiet import quiet_loggers

LAYERS = {
    "num_feat_extract_layers": 7, "conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_bias": True, "feat_extract_norm": "layer",
    "do_stable_layer_norm": True, "num_attention_heads": 8, "hidden_dropout": 0.1, "attention_dropout": 0.0,
    "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.0,
}  # fmt: skip
SMALL = {**LAYERS, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8}
DEEP = {**LAYERS, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adamw": (DEEP, {}),
    "adamw, half as many layers": ({**DEEP, "num_hidden_layers": 6}, {}),
    "adamw, no checkpointing": (DEEP, {"gradient_checkpointing": False}),
    "lora 16": (DEEP, {"lora_rank": 16}),
    "8-bit states": (DEEP, {"optimizer_8bit": True}),
    "fp32": (DEEP, {"bf16": False}),
    "small": (SMALL, {"batch_s": 12.0, "max_s": 6.0}),
    "small, fp32": (SMALL, {"batch_s": 8.0, "max_s": 4.0, "bf16": False}),  # bf16 takes minutes on AVX2
}
XLSR = {  # the real models' sizes, whose memory is calculated
    "xls-r-300m": {**LAYERS, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
    "xls-r-1b": {**LAYERS, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 48},
}


def peak_bytes(field: str) -> int:
    """Return VmHWM or VmRSS of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this measurement needs Linux")


def run_case(name: str) -> dict[str, float]:
    """Train two steps in this process; returns estimate and measurement in GB."""
    import numpy as np
    import torch

    from training.asr.command import estimate_run
    from training.asr.config import AsrConfig
    from training.asr.model import Batch, build_model
    from training.asr.trainer import AsrTrainer, import_adamw8bit
    from training.common.data import Sample, build_vocabulary

    torch.set_num_threads(1)
    sizes, changes = CASES[name]
    settings = {"batch_s": 24.0, "max_s": 12.0, "gradient_checkpointing": True, "bf16": True, **changes}
    if settings.get("optimizer_8bit"):
        import_adamw8bit()
    vocabulary, rng = build_vocabulary([]), np.random.default_rng(0)
    torch.nn.functional.conv1d(torch.randn(1, 8, 4000), torch.randn(8, 8, 3)).sum()  # libraries settle in
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = peak_bytes("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        config = AsrConfig(
            output_dir=Path(folder), train=(Path(folder),), scratch=sizes, device="cpu", **settings
        )
        model = build_model(config, vocabulary)
        network = model.get_base_model() if config.lora_rank else model
        network.freeze_feature_encoder()
        trainer = AsrTrainer(config, model, vocabulary, [Sample(Path("x"), "ja", config.max_s)], [])
        n_samples = int(config.max_s * 16_000)
        waveforms = [rng.standard_normal(n_samples).astype(np.float32) for _ in range(2)]
        for _ in range(2):
            trainer.step([Batch.of(waveforms, [rng.integers(2, 30, 100).tolist()] * 2)])
    measured = peak_bytes("VmHWM") - before
    estimate = estimate_run(config, model, frozen_front_end=True).total
    gb = {"estimate_gb": estimate / 2**30, "measured_gb": measured / 2**30, "ratio": estimate / measured}
    return {key: round(value, 3) for key, value in gb.items()}


def measure_apart(name: str) -> dict[str, float] | None:
    """Run a case in a fresh process; None where it cannot run here (bitsandbytes missing)."""
    search = os.pathsep.join(
        [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    ).rstrip(os.pathsep)
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": search,
    }
    command = [sys.executable, "-P", "-m", "benchmarks.kernels.training_memory", "--case", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        return None
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def calculate_xlsr() -> dict[str, float]:
    """Return the calculated memory of the two configurations that ship, GB."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    from training.asr.command import estimate_run
    from training.asr.config import load_config

    configs = Path(__file__).parents[2] / "training" / "configs"
    found = {}
    for name, path in (("xls-r-300m", "asr_xlsr_300m.yaml"), ("xls-r-1b", "asr_xlsr_1b.yaml")):
        with torch.device("meta"):
            model = Wav2Vec2ForCTC(Wav2Vec2Config(**XLSR[name], num_conv_pos_embeddings=128))
        model.freeze_feature_encoder()
        estimate = estimate_run(load_config(configs / path), model)
        found[name] = round(estimate.total / 2**30, 2)
    return found


def main() -> None:
    """Measure all cases, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.case:
        with quiet_loggers("training", "transformers"):
            print(json.dumps(run_case(options.case)))
        return
    cases = {name: found for name in CASES if (found := measure_apart(name))}
    source = provenance("python -m benchmarks.kernels.training_memory")
    result = {**source, "cases": cases, "calculated_gb": calculate_xlsr()}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
