"""Opens two graphs that share a file of tables: a translator, or the decoder of a second pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from engine.runtime.backend import Choice, open_model
from engine.runtime.onnx_session import Session, open_session
from engine.types import RuntimeOptions

Kernels = TypeVar("Kernels", covariant=True)
Sessions = TypeVar("Sessions", covariant=True)


class PairRoles(NamedTuple):
    """The roles of the files: a graph that runs once, a graph that runs at every step, their tables."""

    once: str
    step: str
    tables: str


class GraphFiles(Protocol):
    """Files by role; see engine.bundle.folder.Bundle."""

    def file(self, role: str) -> Path:
        """The path of a file."""

    def read(self, role: str) -> bytes:
        """The content of a file."""

    def graph(self, role: str, *tables: str) -> bytes:
        """The content of a graph, which reads no files but these tables."""


class ByKernels(Protocol[Kernels]):
    """Makes a runner of our own kernels."""

    def __call__(
        self, once: bytes, step: bytes, tables: Mapping[str, bytes], /, *, choice: Choice | None
    ) -> Kernels:
        """Raises LayoutError or OnnxFormatError where the kernels do not compute the graphs."""


class BySessions(Protocol[Sessions]):
    """Makes a runner of onnxruntime's sessions."""

    def __call__(self, once: Session, step: Session, /, *, choice: Choice | None) -> Sessions:
        """The runner."""


def open_graph_pair(
    what: str,
    choice: Choice,
    files: GraphFiles,
    roles: PairRoles,
    options: RuntimeOptions,
    by_kernels: ByKernels[Kernels],
    by_sessions: BySessions[Sessions],
) -> Kernels | Sessions:
    """Open two graphs as open_model does.

    Args:
        what: the model, in words, for the log.
    Raises:
        DeviceError, DependencyError, OptionError.
    """

    def with_kernels(choice: Choice) -> Kernels:
        tables = {files.file(roles.tables).name: files.read(roles.tables)}
        return by_kernels(files.read(roles.once), files.read(roles.step), tables, choice=choice)

    def with_sessions(choice: Choice) -> Sessions:
        # Several threads share one single-threaded session: faster than one session with several.
        for role in (roles.once, roles.step):
            files.graph(role, roles.tables)
        once = open_session(files.file(roles.once), options, threads=1)
        step = open_session(files.file(roles.step), options, threads=1)
        return by_sessions(once, step, choice=choice)

    return open_model(what, choice, with_kernels, with_sessions)
