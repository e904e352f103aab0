"""A CTC checkpoint in Hugging Face form, of any family in export.acoustic.families, as a verified bundle."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.acoustic.features import compute_features
from engine.bundle.folder import AcousticConfig
from export.acoustic.export import export_acoustic
from export.acoustic.families import (
    FAMILIES,
    Family,
    count_mels,
    explain_architecture,
    feature_config,
    samples_per_frame,
)
from export.acoustic.fastest import export_fastest
from export.acoustic.fed import prepare, wrap_model
from export.acoustic.mapped import map_weights
from export.acoustic.source import AcousticSource, ExportOptions, is_large
from export.acoustic.traced import TracedGraph
from export.acoustic.tracing import trace
from export.acoustic.wav2vec2 import build_wav2vec2, find_unsupported, run_torch
from export.adapters import HEAD, adapter_file, load_adapter
from export.checkpoint import CheckpointInfo, read_checkpoint, read_extractor
from export.errors import ExportError
from export.graph.linear import FloatArray
from export.verification.audio_cases import speech_like
from export.verification.verify import Report

MAX_WINDOW_S = 30.0
FEATURE_TOLERANCE = 2e-3  # of the largest magnitude
TRACED_S = 1.0  # of the signal that tracing follows
KERNELS = "the engine's own kernels, or onnxruntime"
WITHOUT_ADAPTERS = "onnxruntime; the engine's kernels do not compute adapters"


def export_pretrained(
    checkpoint: str, folder: Path, options: ExportOptions, language: str | None = None
) -> Report:
    """Export a checkpoint as a verified bundle.

    Args:
        checkpoint: a save_pretrained folder, or a hub name.
        folder: where the bundle will be.
        language: of the adapter, for a checkpoint that has one for each of several.
    Raises:
        ExportError: the checkpoint cannot be exported, or the graph differs from it.
    """
    export = export_fastest if options.precision == "auto" else export_acoustic
    return export(load_pretrained(checkpoint, language), folder, options)


def load_pretrained(checkpoint: str, language: str | None = None) -> AcousticSource:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        ExportError: it is not a CTC model of a known architecture, or its files do not fit each other.
    """
    folder = local_folder(checkpoint)
    info = read_checkpoint(folder, FAMILIES, language, explain_architecture)
    family = FAMILIES[info.architecture]
    _check_extractor(folder, family)
    model = _load_model(checkpoint, folder, info)
    features = feature_config(family, info, count_mels(family, model.config))
    config = AcousticConfig(
        features=features,
        samples_per_frame=samples_per_frame(family, info.config),
        blank_id=info.blank_id,
        word_delimiter=info.word_delimiter,
        max_window_s=MAX_WINDOW_S,
        trained_with_mask=info.trained_with_mask,
    )
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    name = folder.resolve().name if Path(checkpoint).exists() else checkpoint.split("/")[-1]
    shared: dict[str, Any] = {
        "name": name if info.language is None else f"{name}-{info.language}",
        "licence": info.licence,
        "vocabulary": info.vocabulary,
        "config": config,
        "n_parameters": n_parameters,
    }
    if is_large(n_parameters):
        shared["let_go"] = map_weights(model)
    missing = find_unsupported(model.config) if family.shaped else ["blocks that Wav2Vec2 has not"]
    if not missing:
        return AcousticSource(
            build=lambda precision, ranges: build_wav2vec2(model, precision, ranges),
            batchable=lambda precision, ranges: build_wav2vec2(model, precision, ranges, batchable=True),
            reference=lambda values: run_torch(model, values),
            about=_about(info, family, model, WITHOUT_ADAPTERS if info.language else KERNELS),
            **shared,
        )
    backend = f"onnxruntime; the engine's kernels do not compute {', '.join(missing)}"
    return _traced_source(folder, info, family, model, _about(info, family, model, backend), shared)


def _traced_source(
    folder: Path, info: CheckpointInfo, family: Family, model: Any, about: tuple[str, ...],
    shared: dict[str, Any],
) -> AcousticSource:  # fmt: skip
    """A source whose graph is traced, at its first use."""
    import torch

    model.set_attn_implementation("eager")  # the others hide loops over time from the tracer
    module = wrap_model(model, family.fed)
    features = shared["config"].features
    example = compute_features(speech_like(round(TRACED_S * info.sample_rate), info.sample_rate), features)
    if family.fed != "waveform":
        _check_features(folder, family, shared["config"], info)
    waveform = family.fed == "waveform"
    axes = ("batch", "n_samples") if waveform else ("batch", features.n_mels, "n_rows")

    @cache
    def graph() -> TracedGraph:
        name = "input_values" if waveform else "input_features"
        return TracedGraph(trace(module, example[None], name, axes, len(info.vocabulary)))

    def reference(values: FloatArray) -> FloatArray:
        with torch.inference_mode():
            logits: FloatArray = module(torch.from_numpy(np.ascontiguousarray(values))).float().numpy()
        return logits

    return AcousticSource(
        build=lambda precision, ranges: graph().build(precision, ranges),
        reference=reference,
        about=about,
        precisions=("fp32", "int8"),
        ranged=False,
        **shared,
    )


def _about(info: CheckpointInfo, family: Family, model: Any, backend: str) -> tuple[str, ...]:
    config = getattr(model.config, "encoder_config", model.config)
    norms = {"group": ", group norm in the convolutions", "layer": ", layer norm in the convolutions"}
    norm = norms.get(getattr(config, "feat_extract_norm", ""), "")
    trained = f"; trained {'with' if info.trained_with_mask else 'without'} a mask over padding"
    adapter = f"; adapter of language {info.language}" if info.language else ""
    return (
        f"{family.title} ({info.architecture}), {config.num_hidden_layers} layers of {config.hidden_size}"
        f"{norm}{trained if family.fed == 'waveform' else ''}{adapter}.",
        f"Computed by: {backend}.",
    )


def _check_extractor(folder: Path, family: Family) -> None:
    """Refuse a waveform model whose extractor makes something else.

    Raises:
        ExportError: features of more than one number a sample.
    """
    size = read_extractor(folder).get("feature_size", 1)
    if family.fed == "waveform" and size != 1:
        raise ExportError(
            f"feature_size {size} in preprocessor_config.json", f"1, a waveform, as {family.title} reads it",
            "restore the file",
        )  # fmt: skip


def _check_features(folder: Path, family: Family, config: AcousticConfig, info: CheckpointInfo) -> None:
    """Compare the engine's features with those of the checkpoint's own extractor.

    Raises:
        ExportError: they differ, so the model would hear something else than in its training.
    """
    import torch
    import transformers

    waveform = speech_like(info.sample_rate, info.sample_rate)
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        found = extractor(waveform, sampling_rate=info.sample_rate, return_tensors="pt")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"a feature extractor that cannot be used ({str(error).splitlines()[0]})",
            "preprocessor_config.json of the checkpoint",
            "copy it from where the checkpoint was fine-tuned",
        ) from error
    want = found["input_features"][0][found["attention_mask"][0].bool()].numpy()
    ours = torch.from_numpy(compute_features(waveform, config.features)[None])
    got = prepare(ours, family.fed)[0].numpy()
    off = np.abs(got - want).max() / np.abs(want).max() if got.shape == want.shape else np.inf
    if not off <= FEATURE_TOLERANCE:
        raise ExportError(
            f"a feature extractor whose features differ from the engine's (shape {want.shape} against "
            f"{got.shape}, error {off:.2g})",
            f"the features that {family.title} was published with",
            "report the checkpoint's preprocessor_config.json",
        )


def _load_model(checkpoint: str, folder: Path, info: CheckpointInfo) -> Any:
    import torch
    import transformers

    model_class = getattr(transformers, info.architecture, None)
    if model_class is None:
        raise ExportError(
            f"transformers {transformers.__version__} does not know {info.architecture}",
            "a version that does",
            "upgrade transformers",
        )
    try:
        model, loading = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,  # a checkpoint in half precision would stay so, and no CPU compares in it
        )
    except Exception as error:  # safetensors' own error derives from nothing else
        raise ExportError(
            f"{checkpoint!r} cannot be loaded ({str(error).splitlines()[0]})", "weights that fit config.json"
        ) from error
    missing = set(loading["missing_keys"])
    if info.language is not None:
        load_adapter(model, folder, info.language)
        missing -= _adapter_names(folder, info.language)
    if missing:
        raise ExportError(
            f"{checkpoint!r} lacks {len(missing)} weights of {info.architecture}, "
            f"{', '.join(sorted(missing)[:3])}",
            "a fine-tuned CTC checkpoint, head included",
            "pass the fine-tuned checkpoint, not the pre-trained one",
        )
    return model.eval()


def _adapter_names(folder: Path, language: str) -> set[str]:
    from safetensors import safe_open

    with safe_open(adapter_file(folder, language), "np") as tensors:
        inner = set(tensors.keys())
    return {name if name.startswith(HEAD.split(".")[0]) else f"wav2vec2.{name}" for name in inner}


def local_folder(checkpoint: str) -> Path:
    """A checkpoint's folder, from the hub where it is no folder here.

    Raises:
        ExportError: neither a folder nor available.
    """
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    import huggingface_hub

    try:
        wanted = ["*.json", "*.safetensors", "README.md"]
        return Path(huggingface_hub.snapshot_download(checkpoint, allow_patterns=wanted))
    except Exception as error:  # the hub's errors share no base
        raise ExportError(
            f"{checkpoint!r} is neither a folder nor available from the hub ({type(error).__name__})",
            "a save_pretrained folder or a hub name",
            "check the path, or download the checkpoint first",
        ) from error
