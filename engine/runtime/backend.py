"""What computes a model's graphs: the one choice between our own kernels and onnxruntime, and its reason."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from engine.errors import DeviceError, LayoutError, OptionError, UnsupportedBlockError
from engine.kernels.vector.levels import VARIABLE, active, available, has_vector_kernels
from engine.runtime.onnx_file import OnnxFormatError
from engine.runtime.onnx_session import resolve_device
from engine.types import RuntimeOptions

BACKENDS = ("auto", "kernels", "onnxruntime")
KERNEL_TYPES = ("int8", "bf16")
KERNELS, ONNXRUNTIME = "kernels", "onnxruntime"
ByKernels = TypeVar("ByKernels")
BySession = TypeVar("BySession")
logger = logging.getLogger("engine")


@dataclass(frozen=True, slots=True)
class Choice:
    """What computes a model, and why.

    Attributes:
        backend: "kernels" or "onnxruntime". arithmetic: of its matrix products.
        why: in words. asked: whether a wish of the caller decided, so that nothing else may serve.
    """

    backend: str
    arithmetic: str
    why: str
    asked: bool = False

    def instead(self, error: LayoutError | OnnxFormatError) -> Choice:
        """onnxruntime in place of the kernels, which cannot read the graph or do not compute it.

        Raises:
            DeviceError: the kernels were asked for.
        """
        got, fix = (error.got, error.fix) if isinstance(error, LayoutError) else (str(error), "")
        if self.asked:
            raise DeviceError(
                f"a graph that our own kernels do not compute ({got})",
                "one with a layout table whose blocks they compute",
                fix or "pass backend='onnxruntime'",
            )
        if isinstance(error, UnsupportedBlockError):
            return replace(self, backend=ONNXRUNTIME, why=f"the kernels do not compute this graph: {got}")
        return replace(self, backend=ONNXRUNTIME, why=f"{got}; {fix}" if fix else got)

    def __str__(self) -> str:
        level = f", level {active().name}" if self.backend == KERNELS else ""
        return f"{self.backend}{level}, {self.arithmetic}: {self.why}"


def open_model(
    what: str,
    choice: Choice,
    by_kernels: Callable[[Choice], ByKernels],
    by_session: Callable[[Choice], BySession],
) -> ByKernels | BySession:
    """Open a model as choose_backend said, by onnxruntime where the kernels do not compute its graphs.

    Args:
        what: the model, in words, for the log.
        by_kernels, by_session: open it by one of the two; both are given the choice that led to them.
    Raises:
        DeviceError: the kernels were asked for, and they do not compute the graphs.
    """
    if choice.backend == KERNELS:
        try:
            return by_kernels(choice)
        except (LayoutError, OnnxFormatError) as error:
            logger.debug("onnxruntime runs the %s: %s", what, error)
            choice = choice.instead(error)
    return by_session(choice)


def choose_backend(precision: str, options: RuntimeOptions, compute_type: str = "auto") -> Choice:
    """Decide what computes a model.

    Args:
        precision: the arithmetic that the model was exported in.
        compute_type: the arithmetic that was asked for; "auto" is the precision.
    Raises:
        OptionError: an unknown backend, device or instruction set level.
        DeviceError: what was asked for is not available here.
    """
    if options.backend not in BACKENDS:
        raise OptionError(f"backend {options.backend!r}", ", ".join(BACKENDS), "pass one of these")
    kind = precision if compute_type == "auto" else compute_type
    asked = options.backend == KERNELS or kind == "bf16"
    problems = _problems(precision, kind, options, asked)
    if problems and asked:
        raise DeviceError(
            f"{kind} by our own kernels: {'; '.join(problems)}",
            "an int8 graph, or compute type bf16, on an x86-64 CPU with AVX2",
            "pass backend='onnxruntime' and compute_type='auto'",
        )
    if kind != precision and not asked:
        raise DeviceError(
            f"compute type {kind!r}",
            f"'auto' or {precision!r}, which this model was exported in",
            "pass compute_type='auto', or export the model in the other precision",
        )
    if problems:
        return Choice(ONNXRUNTIME, kind, "; ".join(problems))
    if asked:
        return Choice(KERNELS, kind, "asked for", asked=True)
    return Choice(KERNELS, kind, "our own kernels compute such graphs at this level")


def _problems(precision: str, kind: str, options: RuntimeOptions, asked: bool) -> list[str]:
    """Why the kernels cannot serve."""
    problems = []
    if options.backend == ONNXRUNTIME:
        problems.append("onnxruntime was asked for")
    device = options.device if asked else resolve_device(options)
    if device == "cuda":
        problems.append("the kernels run on the CPU only")
    if not has_vector_kernels():
        problems.append(why_no_level())
    if kind not in KERNEL_TYPES or (kind == "int8" and precision != "int8"):
        problems.append(f"the kernels do not compute a {precision} graph in {kind}")
    return problems


def why_no_level() -> str:
    """Why the active instruction set level is none."""
    if available():
        return f"{VARIABLE}=none"
    machine = platform.machine() or "this processor"
    if machine.lower() in ("x86_64", "amd64"):
        return "this processor lacks AVX2 or FMA"
    return f"there are no kernels for {machine}"


def describe_processor() -> str:
    """The instruction set level that kernels are compiled for, and those that this processor has."""
    if not available():
        return f"no instruction set level: {why_no_level()}"
    chosen = "set by " + VARIABLE if active().name != available()[-1] else "its highest"
    return f"instruction set level {active().name} ({chosen}; it has {', '.join(available())})"
