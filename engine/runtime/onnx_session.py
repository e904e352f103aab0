"""The only importer of onnxruntime: providers, thread budget, arenas, cancellation."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine._distribution import install_command
from engine.errors import DependencyError, DeviceError, EngineError, OptionError
from engine.runtime.cancel import CancelToken
from engine.runtime.cores import available_cores
from engine.runtime.external_data import read_external
from engine.runtime.graph_errors import expect_floats, failure_of, not_exact
from engine.runtime.integer_products import check_products
from engine.types import RuntimeOptions

CUDA = "CUDAExecutionProvider"
INSTALL_FIX = f"{install_command('cpu')}, or for an NVIDIA GPU {install_command('gpu')}"
REINSTALL_FIX = f"pip uninstall -y onnxruntime onnxruntime-gpu && {INSTALL_FIX}"
SHRINK_ARENA = "memory.enable_memory_arena_shrinkage"
# The smallest graph: y = Relu(x), one number; opened once to learn whether CUDA works here.
PROBE = (
    b'\x08\x08:+\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01pZ\x0b\n\x01x\x12\x06\n\x04\x08\x01\x12\x00b'
    b"\x0b\n\x01y\x12\x06\n\x04\x08\x01\x12\x00B\x04\n\x00\x10\x11"
)
# y = MatMulInteger(x, w), x uint8 [1, 2], w int8 127 twice; tells whether sums of two products saturate here.
PRODUCT_PROBE = (
    b'\x08\x08:B\n\x18\n\x01x\n\x01w\x12\x01y"\rMatMulInteger\x12\x01p*\r\x08\x02\x08\x01\x10\x03B\x01wJ\x02\x7f\x7f'
    b"Z\t\n\x01x\x12\x04\n\x02\x08\x02b\t\n\x01y\x12\x04\n\x02\x08\x06B\x04\n\x00\x10\x10"
)
EXACT_PRODUCTS = "session.x64quantprecision"  # "1": uint8 weights, where products with int8 would saturate
UNPACK_WEIGHTS = "session.disable_quant_qdq"
NOT_CONVERTED = "Attempt to replace the existing tensor"  # so EXACT_PRODUCTS fails where layers share weights
logger = logging.getLogger("engine")
Array = NDArray[Any]

__all__ = [
    "Session",
    "as_float32",
    "available_cores",
    "cuda_usable",
    "open_session",
    "resolve_device",
    "runtime_version",
]


class Session:
    """One loaded ONNX graph; safe to call from many threads at once. name: of its file, for errors."""

    def __init__(
        self, inference_session: Any, device: str, threads: int, fixed: bool = False, name: str = "the graph"
    ) -> None:
        """Wrap an InferenceSession; fixed: all calls have the same shapes and replay one CUDA graph."""
        self._session, self.name = inference_session, name
        self.fixed, self.device, self.threads = fixed, device, threads
        # Read here, where a damaged graph's names that are no UTF-8 are an error of ours.
        self._inputs = {i.name: tuple(i.shape) for i in inference_session.get_inputs()}
        self._outputs = {o.name: tuple(o.shape) for o in inference_session.get_outputs()}
        self.input_types = {i.name: str(i.type) for i in inference_session.get_inputs()}  # tensor(float) ...
        self.input_names, self.output_names = tuple(self._inputs), tuple(self._outputs)
        self.metadata: dict[str, str] = dict(inference_session.get_modelmeta().custom_metadata_map)
        self._graph: _GraphBuffers | None = None
        self._graph_lock = threading.Lock()

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        cancel: CancelToken | None = None,
        shrink: bool = False,
    ) -> list[Array]:
        """Run the graph.

        Args:
            feeds: one array for every name in input_names.
            outputs: names to return; all of them when None.
            cancel: ends the call from another thread.
            shrink: give memory that the device's arena does not need any more back after the call.
        Returns:
            The outputs, as numpy arrays, in the order asked for.
        Raises:
            CancelledError: cancel was set before or during the call.
            ModelError: the graph cannot be run, or not with these feeds. DeviceError: the GPU fails.
        """
        try:
            return self._run_bounded(feeds, outputs, cancel, shrink)
        except EngineError:
            raise
        except Exception as error:  # onnxruntime's own types share no public base
            raise failure_of(f"{self.name} cannot be run", error, self.device) from error

    def _run_bounded(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None,
        cancel: CancelToken | None, shrink: bool,
    ) -> list[Array]:  # fmt: skip
        if cancel is None and not shrink:
            return self._run(feeds, outputs, None)
        run_options = _onnxruntime().RunOptions()
        if shrink:
            run_options.add_run_config_entry(SHRINK_ARENA, "gpu:0" if self.device == "cuda" else "cpu:0")
        if cancel is None:
            return self._run(feeds, outputs, run_options)
        cancel.raise_if_cancelled()
        with cancel.ending(run_options):
            try:
                return self._run(feeds, outputs, run_options)
            except Exception:
                cancel.raise_if_cancelled()
                raise

    def _run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None, run_options: Any
    ) -> list[Array]:
        names = list(outputs or self.output_names)
        if self.device == "cpu":  # binding saves nothing there: arrays are read and written in place anyway
            return list(self._session.run(names, dict(feeds), run_options))
        if self.fixed:
            with self._graph_lock:  # one set of buffers, whose addresses the graph has captured
                if self._graph is None:
                    self._graph = _GraphBuffers(self._session, feeds, names)
                return self._graph.run(feeds, run_options)
        return run_bound(self._session, feeds, names, run_options)

    def expect(self, array: Array, shape: Sequence[int | None], what: str) -> Array:
        """An output, if it is float32 of this shape; None is any size.

        Raises:
            ModelError: it is not.
        """
        return expect_floats(array, shape, f"{self.name} gives {what}")

    def input_shape(self, name: str) -> list[int | str | None]:
        """The declared shape of an input; free dimensions are names or None."""
        return list(self._inputs[name])

    def output_shape(self, name: str) -> list[int | str | None]:
        """The declared shape of an output; free dimensions are names or None."""
        return list(self._outputs[name])


class _GraphBuffers:
    """Inputs and outputs at fixed places on the device, as a captured CUDA graph needs them."""

    def __init__(self, session: Any, feeds: Mapping[str, Array], names: Sequence[str]) -> None:
        value_of = _onnxruntime().OrtValue
        self._session, self._names = session, list(names)
        self._inputs = {name: value_of.ortvalue_from_numpy(array, "cuda", 0) for name, array in feeds.items()}
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():  # free dimensions were fixed when the session was opened
            if output.name in self._names:
                value = value_of.ortvalue_from_shape_and_type(list(output.shape), np.float32, "cuda", 0)
                self._binding.bind_ortvalue_output(output.name, value)

    def run(self, feeds: Mapping[str, Array], run_options: Any) -> list[Array]:
        """Copy in, replay (the first calls capture), copy out."""
        for name, array in feeds.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        self._session.run_with_iobinding(self._binding, run_options)
        return list(self._binding.copy_outputs_to_cpu())


def run_bound(
    session: Any, feeds: Mapping[str, Array], names: Sequence[str], run_options: Any = None
) -> list[Array]:
    """Run with inputs and outputs bound, so that each crosses to the device and back once; any device."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding, run_options)
    return list(binding.copy_outputs_to_cpu())


def open_session(
    model: bytes | str | Path,
    options: RuntimeOptions | None = None,
    threads: int | None = None,
    fixed_dims: Mapping[str, int] | None = None,
    name: str = "",
    unpack_weights: bool = False,
) -> Session:
    """Load an ONNX graph on the requested device.

    Args:
        model: a path, or the serialised graph itself.
        options: device and thread budget.
        threads: intra-op threads; overrides options (1 where the caller parallelises by itself).
        fixed_dims: values of free dimensions, by name; every call must then have these shapes. Needed for
            options.cuda_graphs, which does nothing without them or on the CPU.
        name: what errors call it; the file's name where model is a path.
        unpack_weights: compute each DequantizeLinear of a constant once, when the graph is loaded, instead of
            keeping it for integer products: float32 products, and the weights in memory once.
    Raises:
        ModelError: onnxruntime cannot load it.
        DeviceError: CUDA was asked for and does not work here, or this processor computes the graph wrong.
        DependencyError: onnxruntime is missing or broken.
    """
    options = options or RuntimeOptions()
    ort = _onnxruntime()
    device = resolve_device(options)
    count = threads or options.threads or available_cores()
    source = model if isinstance(model, bytes) else os.fspath(model)
    settings = _session_options(ort, count)
    problems = check_products(model, unpack_weights).problems if _products_saturate() else ()
    if problems:
        logger.info(
            "no VNNI here: integer products are computed at three quarters of the speed; %s", problems[0]
        )
        settings.add_session_config_entry(EXACT_PRODUCTS, "1")
    if unpack_weights:
        settings.add_session_config_entry(UNPACK_WEIGHTS, "1")
    beside = {} if isinstance(model, bytes) else read_external(Path(model))
    if beside:
        sizes = [len(content) for content in beside.values()]
        settings.add_external_initializers_from_files_in_memory(list(beside), list(beside.values()), sizes)
    for name, size in (fixed_dims or {}).items():
        settings.add_free_dimension_override_by_name(name, size)
    graphs = options.cuda_graphs and bool(fixed_dims) and device == "cuda"
    providers = provider_settings(device, options.gpu_memory_mb, graphs)
    # Its own fallback prints to standard output, and would serve a request for CUDA from the CPU.
    name = name or ("the graph" if isinstance(model, bytes) else Path(model).name)
    try:
        session = ort.InferenceSession(source, settings, providers=providers, enable_fallback=0)
        opened = Session(session, device, count, fixed=graphs, name=name)
    except Exception as error:  # onnxruntime's own types, and UnicodeError for names in the graph
        if problems and NOT_CONVERTED in str(error):
            raise not_exact() from error
        raise failure_of(f"onnxruntime cannot load {name}", error, device) from error
    if device == "cuda" and CUDA not in session.get_providers():
        raise _no_cuda("onnxruntime fell back to the CPU")
    return opened


def resolve_device(options: RuntimeOptions) -> str:
    """Turn "auto" into "cuda" or "cpu", and refuse "cuda" where it cannot work.

    Where a GPU is there and cannot be used, "auto" is the CPU, and the log says why.

    Raises:
        OptionError: an unknown device. DeviceError: CUDA was asked for and is not usable.
    """
    if options.device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"device {options.device!r}", "auto, cpu or cuda", "pass one of these")
    if options.gpu_memory_mb <= 0:
        raise OptionError(f"gpu_memory_mb {options.gpu_memory_mb}", "a size above zero", "pass megabytes")
    if options.device == "cpu":
        return "cpu"
    if not cuda_present():
        failure = "no NVIDIA device is visible to this process"
    else:
        failure = _cuda_failure()
        if failure and options.device == "auto":
            logger.warning("running on the CPU: there is an NVIDIA device, but %s", failure)
    if options.device == "cuda" and failure:
        raise _no_cuda(failure)
    return "cpu" if failure else "cuda"


def cuda_usable() -> bool:
    """Whether "auto" means CUDA here."""
    return resolve_device(RuntimeOptions()) == "cuda"


def cuda_present() -> bool:
    """Whether the NVIDIA driver shows at least one device to this process; asks nothing of CUDA."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return Path("/dev/dxg").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


@functools.cache
def _cuda_failure() -> str:
    """Why the CUDA provider cannot run here, found by trying; "" where it can."""
    ort = _onnxruntime()
    if CUDA not in ort.get_available_providers():
        return "this build of onnxruntime has no CUDA provider"
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        ort.preload_dlls()  # NVIDIA's wheels are on no library path
    try:
        session = ort.InferenceSession(PROBE, providers=[CUDA], enable_fallback=0)
    except Exception as error:  # onnxruntime's own types
        reason = re.search(r"CUDA failure [^;]*", str(error))
        return f"onnxruntime cannot start it ({reason.group().strip() if reason else error})"
    return "" if CUDA in session.get_providers() else "its libraries (CUDA 13, cuDNN 9) do not load"


@functools.cache
def _products_saturate() -> bool:
    """Whether onnxruntime cuts sums of two products, uint8 by int8, off at 16 bits here; found by trying.

    So it is on x86-64 without VNNI. Elsewhere EXACT_PRODUCTS would only make products slower.
    """
    ort = _onnxruntime()
    settings = _session_options(ort, 1)
    session = ort.InferenceSession(PRODUCT_PROBE, settings, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.full((1, 2), 255, np.uint8)})[0]
    return int(found[0, 0]) != 2 * 255 * 127


def _session_options(ort: Any, threads: int) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # failures are raised, with their text
    # Spinning workers burn the other stages' share of the budget.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.dynamic_block_base", "4")
    return settings


def provider_settings(device: str, gpu_memory_mb: int, cuda_graphs: bool = False) -> list[Any]:
    """onnxruntime's providers and their options, in order of preference."""
    if device == "cpu":
        return [("CPUExecutionProvider", {})]
    cuda = {
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE re-tunes on every new length
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(gpu_memory_mb << 20),
        "enable_cuda_graph": "1" if cuda_graphs else "0",
    }
    return [(CUDA, cuda), ("CPUExecutionProvider", {})]


def _no_cuda(why: str) -> DeviceError:
    return DeviceError(
        f"device cuda was asked for, but {why}",
        "an NVIDIA GPU with a driver for CUDA 13 and cuDNN 9",
        "use --device cpu, or install the driver and "
        "`pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu[cuda,cudnn]`",
    )


@functools.cache
def _onnxruntime() -> Any:
    """Import onnxruntime once; its two packages share a folder, so that each overwrites files of the other.

    Raises:
        DependencyError: neither is installed, or what is left of them does not work.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    # Since 1.29 it reports sessions to its makers over the network, unless this is set while it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise _no_onnxruntime(installed, str(error)) from error
    if not hasattr(onnxruntime, "InferenceSession"):  # a folder without its files, left by an uninstallation
        raise _no_onnxruntime(installed, "files are missing")
    if len(installed) == 2:
        logger.warning(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; version %s works, "
            "but the GPU may be out of reach. To keep one: %s", onnxruntime.__version__, REINSTALL_FIX,
        )  # fmt: skip
    onnxruntime.disable_telemetry_events()  # where the host had imported it before
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def _no_onnxruntime(installed: Sequence[str], reason: str) -> DependencyError:
    if not installed:
        return DependencyError("onnxruntime is not installed", "one of its two packages", INSTALL_FIX)
    got = f"{' and '.join(installed)} cannot be imported ({reason})"
    return DependencyError(got, "one of the two packages, complete", REINSTALL_FIX)


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
