"""`engine info`: what a model holds."""

from __future__ import annotations

import argparse
import json

import msgspec

from engine.bundle.folder import Bundle, open_bundle
from engine.cli.terminal import say
from engine.errors import EngineError


def run_info(options: argparse.Namespace) -> int:
    """Verify a model and print what it is."""
    bundle = open_bundle(options.model)
    if options.json:
        say(json.dumps(msgspec.to_builtins(bundle.manifest), indent=2, ensure_ascii=False))
    else:
        say(describe_bundle(bundle))
    return 0


def describe_bundle(bundle: Bundle) -> str:
    """A readable page: name, files with sizes, configurations, figures and the runtime."""
    manifest = bundle.manifest
    lines = [manifest.name, f"  licence   {manifest.licence}", f"  folder    {bundle.path}"]
    lines += [
        f"  file      {entry.path:<24} {entry.bytes / 1e6:6.2f} MB  {entry.role}" for entry in manifest.files
    ]
    if manifest.acoustic:
        acoustic = manifest.acoustic
        lines.append(
            f"  acoustic  {acoustic.features.kind}, {acoustic.precision}, "
            f"{acoustic.features.sample_rate} Hz, {len(bundle.vocabulary)} tokens, "
            f"windows of {acoustic.max_window_s:g} s"
        )
    if manifest.second_pass:
        second = manifest.second_pass
        lines.append(
            f"  2nd pass  {second.precision}, {second.vocab_size} tokens, {second.n_layers} decoder layers, "
            f"{second.beam_size} beams"
        )
    if manifest.translation:
        translation = manifest.translation
        lines.append(
            f"  mt        {translation.source_language}-{translation.target_language}, "
            f"{translation.precision}, {translation.vocab_size} tokens, {translation.n_layers} decoder layers"
        )
    figures = {name: value for name, value in manifest.figures.items() if "signature" not in name}
    lines += [f"  figure    {name}: {value}" for name, value in figures.items()]
    return "\n".join([*lines, *_describe_runtime(bundle)])


def _describe_runtime(bundle: Bundle) -> list[str]:
    """The processor, and what computes each model on it and why."""
    from engine.acoustic.encoders import open_encoder
    from engine.runtime.backend import ONNXRUNTIME, Choice, describe_processor
    from engine.translation.runners import open_runner
    from engine.two_pass.runners import open_decoder
    from engine.types import RuntimeOptions

    options, manifest = RuntimeOptions(), bundle.manifest
    lines = [f"  processor {describe_processor()}", f"  runtime   {_runtime()}"]
    if manifest.acoustic:
        lines.append(f"  acoustic  by {open_encoder(bundle, manifest.acoustic, options).choice}")
    if manifest.second_pass:
        lines.append(f"  2nd pass  by {open_decoder(bundle, manifest.second_pass, options).choice}")
    if manifest.translation:
        lines.append(f"  mt        by {open_runner(bundle, manifest.translation, options).choice}")
    if bundle.has("punctuation"):
        small = Choice(ONNXRUNTIME, "fp32", "a graph too small to need kernels")
        lines.append(f"  case      by {small}")
    return lines


def _runtime() -> str:
    from engine.runtime.cores import available_cores
    from engine.runtime.onnx_session import resolve_device, runtime_version
    from engine.types import RuntimeOptions

    try:
        device = resolve_device(RuntimeOptions())
        return f"onnxruntime {runtime_version()}, device {device}, {available_cores()} usable cores"
    except EngineError as error:
        return str(error)
