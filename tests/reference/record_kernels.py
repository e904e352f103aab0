"""Writes engine/kernels/signatures.json: what the product calls with the embedded bundle and random models.

    python -m tests.reference.record_kernels

Needs the packages of the export extra, for random Wav2Vec2 models and decoders of the real structure. Runs
each case in two processes: the first compiles, the second loads every kernel that Python calls by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
AUDIO = ROOT / "examples/audio"


def use_bundle() -> None:
    """Everything that the embedded bundle is asked for."""
    import engine
    from engine.types import DecodingOptions

    translator = engine.load(threads=2)
    visit, station = str(AUDIO / "visit.flac"), str(AUDIO / "station.flac")
    translator.translate(visit)
    translator.transcribe(station, hotwords=["Bahnhof"])
    translator.transcribe(station, options=DecodingOptions(beam_width=1))
    for width in (None, 1):
        translator.transcribe(station, options=DecodingOptions(beam_width=width, passes=1))
    translator.transcribe(station, hotwords=["Bahnhof"], options=DecodingOptions(passes=1))
    translator.transcribe_batch([visit, station])
    translator.transcribe(str(AUDIO / "sunday.flac"))
    translator.translate_text(["ja", "Das ist ein Haus."], DecodingOptions(translation_beam_size=1))
    noise = np.random.default_rng(0).standard_normal(80_000).astype(np.float32) * np.float32(0.1)
    for _ in translator.stream([noise[:40_000], noise[40_000:]], sample_rate=16_000):
        pass
    translator.transcribe(noise, sample_rate=44_100)
    log_probs = translator.acoustic.compute_log_probs(translator.acoustic.compute_features(noise))
    state = translator.decoder.start()
    for half in (log_probs[:90], log_probs[90:]):
        state = translator.decoder.advance(state, half)
        translator.decoder.read_partial(state)
    translator.decoder.finish(state, n_best=2)


def use_waveform_models() -> None:
    """Random Wav2Vec2 models in the two forms of their norms, in int8 and bfloat16."""
    from engine.native.encoder import NativeEncoder
    from tests.reference.tiny_encoders import waveform_encoder

    waveform = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    for kind in ("group norm", "stable layer norm", "taps of 128"):
        graph = waveform_encoder(kind).graphs["int8"]
        for integers in (True, False):
            NativeEncoder(graph, integers=integers).run(waveform, 2)


def use_second_pass() -> None:
    """An attention decoder: a prefill, and steps of several rows."""
    from engine.bundle.folder import open_bundle
    from engine.kernels.layers.order import put_in_order
    from engine.two_pass.runners import open_decoder
    from engine.types import RuntimeOptions
    from tests.reference.tiny_two_pass import bundle_folder, make_states

    bundle = open_bundle(bundle_folder())
    config = bundle.manifest.second_pass
    assert config is not None
    decoder = open_decoder(bundle, config, RuntimeOptions(device="cpu", backend="kernels"))
    steps = decoder.start(make_states(50), 5, 20, None)
    steps.prefill(np.arange(9), None)
    steps.step(np.arange(5), np.zeros(5, np.int64), None)
    put_in_order(np.zeros((32, 32), np.int8))  # what level avx2 does with every integer layer


CASES: dict[str, Callable[[], None]] = {
    "bundle": use_bundle, "waveform": use_waveform_models, "second pass": use_second_pass,
}  # fmt: skip


def record(case: str) -> dict[str, list[Any]]:
    """Run a case, and list what was compiled or loaded for a call from Python."""
    from engine.kernels import _dispatch
    from engine.kernels._signatures import decode, encode

    found: dict[str, list[Any]] = {}
    depth = 0
    compile_kernel = _dispatch.KernelDispatcher.compile

    def compile_and_note(self: Any, signature: Any) -> Any:
        nonlocal depth
        if depth == 0:
            name = f"{self.py_func.__module__}:{self.py_func.__qualname__}"
            encoded = [encode(kind) for kind in signature]
            assert [decode(kind) for kind in encoded] == list(signature), name
            found.setdefault(name, []).append(encoded)
        depth += 1
        try:
            return compile_kernel(self, signature)
        finally:
            depth -= 1

    _dispatch.KernelDispatcher.compile = compile_and_note  # type: ignore[method-assign]
    CASES[case]()
    return found


def record_all() -> dict[str, list[Any]]:
    """What all cases call, sorted."""
    joined: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        for case in CASES:
            command = [sys.executable, "-m", "tests.reference.record_kernels", case]
            for _ in range(2):
                done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
            for name, signatures in json.loads(done.stdout).items():
                known = joined.setdefault(name, [])
                known += [one for one in signatures if one not in known]
    return {name: sorted(joined[name], key=json.dumps) for name in sorted(joined)}


def main() -> None:
    """Record one case for the process above, or all into the file."""
    if len(sys.argv) > 1:
        print(json.dumps(record(sys.argv[1])))
        return
    from engine.kernels.precompile import LIST

    lines = []
    for name, signatures in record_all().items():
        ones = ",\n  ".join(json.dumps(one) for one in signatures)
        lines.append(f' "{name}": [\n  {ones}\n ]')
    LIST.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
