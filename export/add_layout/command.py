"""`engine-export layout BUNDLE OUT`: layout tables for a bundle of an earlier export, without its checkpoint.

Graphs of earlier exports have no table (engine.bundle.layout), so that onnxruntime runs them. The table is
read from the nodes that this package wrote; every other byte of the graphs and all other files stay the same.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

from engine.bundle.folder import Bundle, open_bundle
from engine.bundle.layout import KEY, OtherSpec, read_layout
from engine.bundle.target import FILE_NAMES, check_target
from engine.runtime.onnx_file import read_graph, with_metadata
from export.add_layout.check import Row, compare_layouts
from export.bundle import write_again
from export.errors import ExportError
from export.layout.describe import FAMILIES, TABLES, add_layout


def add_layouts(source: Path, out: Path) -> tuple[Row, ...] | None:
    """Write a bundle again, its graphs with layout tables.

    Args:
        source: the folder of a bundle. out: the folder to write; may be the same.
    Returns:
        How the kernels compare with onnxruntime on each part; None, with nothing written, where every graph
        has the table that this version writes.
    Raises:
        ExportError: no bundle, or a table with which the kernels' results differ; nothing was written.
        BundleError: the bundle is damaged, or `out` cannot become a bundle.
    """
    if not source.is_dir() and source.suffix == ".onnx":
        raise ExportError(f"{str(source)!r} is a bare graph", "the folder of a bundle", "export it again")
    bundle = open_bundle(source)
    check_target(out)
    graphs = describe_bundle(bundle)
    if all(bundle.read(role) == data for role, data in graphs.items()):
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="export-") as temporary:
            files = {entry.role: bundle.file(entry.role) for entry in bundle.manifest.files}
            for role in {*graphs, *TABLES.values()}.intersection(files):  # tables are in the graphs' folder
                files[role] = Path(temporary, FILE_NAMES[role])
                files[role].write_bytes(graphs.get(role) or bundle.read(role))
            rows = compare_layouts(Bundle(Path(temporary), bundle.manifest, files))
            write_again(bundle, out, files)
    except OSError as error:
        raise ExportError(
            f"{str(out)!r} could not be written ({error})", "free space and write access"
        ) from error
    return rows


def describe_bundle(bundle: Bundle) -> dict[str, bytes]:
    """The graphs of a bundle by role, with layout tables and otherwise byte for byte the same.

    Raises:
        ExportError: a graph cannot be read, there is none, or a file has a name that exports do not use.
    """
    roles = [role for role in FAMILIES if bundle.has(role)]
    if not roles:
        raise ExportError(f"{bundle.name!r} has no graph for the kernels", ", ".join(FAMILIES), "export one")
    names = {role: bundle.file(role).name for role in (*roles, *TABLES.values()) if bundle.has(role)}
    wrong = [
        f"{role}: the file is called {name!r}" for role, name in names.items() if name != FILE_NAMES[role]
    ]
    if wrong:
        raise ExportError("; ".join(wrong), "the names that engine-export gives", "export it again")
    graphs = {role: add_layout(bundle.read(role), role, tables_of(bundle, role)) for role in roles}
    for role, data in graphs.items():
        if with_metadata(data, KEY, None) != with_metadata(bundle.read(role), KEY, None):
            raise ExportError(
                f"{role}: other bytes than the table's have changed", "the same graph", "report it"
            )
    return graphs


def tables_of(bundle: Bundle, role: str) -> Mapping[str, bytes]:
    """The file that contains some tensors of a graph, by name."""
    table = TABLES.get(role, "")
    return {bundle.file(table).name: bundle.read(table)} if table and bundle.has(table) else {}


def show_layouts(bundle: Bundle) -> list[str]:
    """A line for each graph: its kind by the table."""
    lines = []
    for role in (role for role in FAMILIES if bundle.has(role)):
        layout = read_layout(read_graph(bundle.read(role), tables_of(bundle, role), nodes=False))
        model = layout.model
        said = f"for onnxruntime only: {model.why}" if isinstance(model, OtherSpec) else "described"
        lines.append(f"{role}: {said}")
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `engine-export layout`."""
    parser.add_argument("bundle", type=Path, help="folder of a bundle, or the name of an embedded one")
    parser.add_argument("out", type=Path, help="folder of the new bundle; an existing bundle is replaced")


def run(options: argparse.Namespace) -> int:
    """Describe, compare and write; print the result."""
    rows = add_layouts(options.bundle, options.out)
    if rows is None:
        print(f"{options.bundle}: every graph has its layout table already; nothing was written")
        return 0
    print("\n".join([*show_layouts(open_bundle(options.out)), *map(str, rows)]))
    print(f"wrote {options.out}")
    return 0
