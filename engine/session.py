"""The only importer of onnxruntime: providers, thread budget, arenas, cancellation."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CancelledError, DependencyError, DeviceError, OptionError
from engine.types import RuntimeOptions

ONNXRUNTIME_FIX = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
CGROUP_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
CUDA_ARENA_BYTES = 8 << 30
Array = NDArray[Any]


class CancelToken:
    """Set from any thread to end running and later session calls; the buffers outlive the call.

    Raises CancelledError in the call that it stops.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._running: set[Any] = set()
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether cancel() was called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Ask every call that holds this token to stop."""
        self._event.set()
        with self._lock:
            for run_options in self._running:
                run_options.terminate = True

    def raise_if_cancelled(self) -> None:
        """Raise CancelledError once cancel() was called."""
        if self.cancelled:
            raise CancelledError("the call was cancelled")

    def _enter(self, run_options: Any) -> None:
        with self._lock:
            self._running.add(run_options)
        if self.cancelled:
            run_options.terminate = True

    def _leave(self, run_options: Any) -> None:
        with self._lock:
            self._running.discard(run_options)


class Session:
    """One loaded ONNX graph; safe to call from many threads at once."""

    def __init__(self, inference_session: Any, device: str, threads: int) -> None:
        self._session = inference_session
        self.device = device
        self.threads = threads
        self.input_names: tuple[str, ...] = tuple(i.name for i in inference_session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(o.name for o in inference_session.get_outputs())
        self.metadata: dict[str, str] = dict(inference_session.get_modelmeta().custom_metadata_map)

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        cancel: CancelToken | None = None,
    ) -> list[Array]:
        """Run the graph.

        Args:
            feeds: one array for every name in input_names.
            outputs: names to return; all of them when None.
            cancel: ends the call from another thread.
        Returns:
            The outputs, as numpy arrays, in the order asked for.
        Raises:
            CancelledError: cancel was set before or during the call.
        """
        if cancel is None:
            return list(self._session.run(outputs, dict(feeds)))
        cancel.raise_if_cancelled()
        run_options = _onnxruntime().RunOptions()
        cancel._enter(run_options)
        try:
            return list(self._session.run(outputs, dict(feeds), run_options))
        except Exception:
            cancel.raise_if_cancelled()
            raise
        finally:
            cancel._leave(run_options)

    def input_shape(self, name: str) -> list[int | str | None]:
        """The declared shape of an input; free dimensions are names or None."""
        return list(next(i for i in self._session.get_inputs() if i.name == name).shape)

    def output_shape(self, name: str) -> list[int | str | None]:
        """The declared shape of an output; free dimensions are names or None."""
        return list(next(o for o in self._session.get_outputs() if o.name == name).shape)


def open_session(
    model: bytes | str | Path, options: RuntimeOptions | None = None, threads: int | None = None
) -> Session:
    """Load an ONNX graph on the requested device.

    Args:
        model: a path, or the serialised graph itself.
        options: device and thread budget.
        threads: intra-op threads; overrides options (1 where the caller parallelises by itself).
    Raises:
        DeviceError: CUDA was asked for and does not work here.
        DependencyError: onnxruntime is missing, or its two wheels overwrite each other.
    """
    options = options or RuntimeOptions()
    ort = _onnxruntime()
    device = resolve_device(options)
    count = threads or options.threads or available_cores()
    source = model if isinstance(model, bytes) else os.fspath(model)
    session = ort.InferenceSession(source, _session_options(ort, count), providers=_providers(device))
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise _no_cuda("onnxruntime fell back to the CPU")
    return Session(session, device, count)


def resolve_device(options: RuntimeOptions) -> str:
    """Turn "auto" into "cuda" or "cpu", and refuse "cuda" where it cannot work.

    Raises:
        OptionError: an unknown device. DeviceError: CUDA was asked for and is not usable.
    """
    if options.device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"device {options.device!r}", "auto, cpu or cuda", "pass one of these")
    if options.device == "cpu":
        return "cpu"
    usable = "CUDAExecutionProvider" in _onnxruntime().get_available_providers() and cuda_present()
    if options.device == "cuda" and not usable:
        raise _no_cuda("no NVIDIA device is visible to this process")
    return "cuda" if usable else "cpu"


def cuda_usable() -> bool:
    """Whether "auto" means CUDA here."""
    return resolve_device(RuntimeOptions()) == "cuda"


def cuda_present() -> bool:
    """Whether the NVIDIA driver shows at least one device to this process."""
    return Path("/dev/nvidia0").exists() or bool(list(Path("/dev").glob("nvidia[0-9]*")))


def available_cores() -> int:
    """Cores this process may use: CPU affinity, capped by the cgroup's quota, at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, math.ceil(quota))) if quota else max(1, cores)


def _cgroup_quota() -> float | None:
    try:
        quota, period = CGROUP_QUOTA.read_text(encoding="ascii").split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = int(CGROUP_V1_QUOTA.read_text(encoding="ascii"))
        return limit / int(CGROUP_V1_PERIOD.read_text(encoding="ascii")) if limit > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _session_options(ort: Any, threads: int) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # Spinning workers burn the other stages' share of the budget.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.dynamic_block_base", "4")
    return settings


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return [("CPUExecutionProvider", {})]
    cuda = {
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE re-tunes on every new length
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(CUDA_ARENA_BYTES),
    }
    return [("CUDAExecutionProvider", cuda), ("CPUExecutionProvider", {})]


def _no_cuda(why: str) -> DeviceError:
    return DeviceError(
        f"device cuda was asked for, but {why}",
        "an NVIDIA GPU with a driver for CUDA 13 and cuDNN 9",
        "use --device cpu, or install the driver and `pip install onnxruntime-gpu[cuda,cudnn]`",
    )


@functools.cache
def _onnxruntime() -> Any:
    """Import onnxruntime once, after checking that its two wheels do not overwrite each other."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise DependencyError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            "one of them",
            ONNXRUNTIME_FIX,
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(f"onnxruntime cannot be imported ({error})", fix=ONNXRUNTIME_FIX) from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def runtime_version() -> str:
    """The version of onnxruntime, for signatures."""
    return str(_onnxruntime().__version__)


def as_float32(values: Array) -> NDArray[np.float32]:
    """A contiguous float32 view or copy, as graphs want it."""
    return np.ascontiguousarray(values, dtype=np.float32)
