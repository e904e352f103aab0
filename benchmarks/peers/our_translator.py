"""This project's own translators, as the comparison calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.protocol.driver import LocalSystem, System
from engine.bundle.schema import TranslationConfig
from engine.runtime.onnx_session import runtime_version
from engine.translation.search import EncoderDecoder, padded_length

Ids = list[int]
NAMES = ("engine", "engine by onnxruntime")


def our_translators(folder: Path, names: Sequence[str]) -> tuple[dict[str, System], dict[str, str]]:
    """Ways to run the graphs of `export marian`.

    Args:
        folder: of the export.
        names: of NAMES, those that are wanted.
    Returns:
        The systems by name, and the reasons for those that are left out.
    """
    found: dict[str, System] = {}
    left_out = {}
    for name in names:
        try:
            engine = Engine(folder, kernels=name == "engine")
        except ImportError as error:
            left_out[name] = str(error)
            continue
        found[name] = LocalSystem(engine.run, engine.signature)
    return found, left_out


class Engine:
    """Inputs sources (lists of ids), limits, beam_size and forced (0: the model decides where it ends)."""

    def __init__(self, folder: Path, kernels: bool) -> None:
        import msgspec

        from export.translation.runners import open_kernels, open_sessions

        config = msgspec.json.decode((folder / "translation.json").read_bytes(), type=TranslationConfig)
        runner: Any = open_kernels(folder, config) if kernels else open_sessions(folder, config)
        if runner is None:
            raise ImportError("the engine's own kernels do not compute this model here")
        # An end token that no vocabulary has: the model continues to the limit.
        endless = msgspec.structs.replace(config, eos_id=config.vocab_size)
        self._models = {False: EncoderDecoder(runner, config), True: EncoderDecoder(runner, endless)}
        self.signature = f"engine:{config.precision}|{runner.backend}|onnxruntime:{runtime_version()}"

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Group by padded length, like the runtime's Translator."""
        model, sources, limits = self._models[bool(inputs["forced"])], inputs["sources"], inputs["limits"]
        groups: dict[int, list[int]] = {}
        for index, source in enumerate(sources):
            groups.setdefault(padded_length(len(source)), []).append(index)
        outputs: list[Ids] = [[] for _ in sources]
        for rows in groups.values():
            found = model.generate(
                [sources[i] for i in rows], [limits[i] for i in rows], beam_size=inputs["beam_size"],
                length_penalty=1.0,
            )  # fmt: skip
            for i, hypotheses in zip(rows, found, strict=True):
                outputs[i] = list(hypotheses[0].tokens)
        return {"tokens": outputs}
