"""Second names of modules: import paths of earlier releases, for one release, and one that stays."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "engine.arrays": "engine.runtime.arrays",
    "engine.audio_container": "engine.audio.containers",
    "engine.audio_limits": "engine.audio.limits",
    "engine.backend": "engine.runtime.backend",
    "engine.batches": "engine.acoustic.batches",
    "engine.clock": "engine.runtime.clock",
    "engine.cores": "engine.runtime.cores",
    "engine.encoders": "engine.acoustic.encoders",
    "engine.fbank": "engine.acoustic.fbank",
    "engine.features": "engine.acoustic.features",
    "engine.formats": "engine.output.formats",
    "engine.groups": "engine.jobs.groups",
    "engine.integer_products": "engine.runtime.integer_products",
    "engine.longform": "engine.jobs.longform",
    "engine.manifest": "engine.bundle.schema",
    "engine.quantization": "engine.runtime.pair_safe",
    "engine.punctuation": "engine.output.punctuation",
    "engine.sentences": "engine.translation.sentences",
    "engine.seq2seq": "engine.translation.search",
    "engine.seq2seq_runners": "engine.translation.runners",
    "engine.session": "engine.runtime.onnx_session",
    "engine.signature": "engine.bundle.signature",
    "engine.streaming": "engine.jobs.streaming",
    "engine.subtitles": "engine.output.subtitles",
    "engine.tokenizer": "engine.translation.tokenizer",
    "engine.vad": "engine.audio.vad",
    "engine.warmup": "engine.jobs.warmup",
}
# Not deprecated: where users of Ray look for it; it has no file of its own on the package's crowded floor.
ALSO = {"engine.ray": "engine.jobs.ray"}


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the second name of a module; asked only for names that no file has."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for a second name, None for every other."""
        known = fullname in MOVED or fullname in ALSO
        return importlib.util.spec_from_loader(fullname, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module under its new name."""
        new = ALSO.get(spec.name) or MOVED[spec.name]
        if spec.name in MOVED:
            warnings.warn(f"{spec.name} has moved to {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run; the spec under the new name, which the import system has replaced, is put back."""
        if module.__spec__ is not None and module.__spec__.loader is self:
            module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Let imports of old names find their modules; once a process."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
