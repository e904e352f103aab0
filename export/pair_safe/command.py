"""`engine-export pair-safe BUNDLE OUT`: int8 weights of an earlier export, made exact on every x86-64.

Earlier exports wrote any int8 codes. On a processor without VNNI their products are slower, or, outside
this engine, wrong (engine/runtime/pair_safe.py). The checkpoint is not needed: the codes themselves are
rounded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.bundle.folder import Bundle, open_bundle, write_bundle
from engine.bundle.schema import Manifest
from engine.bundle.target import CARD, FILE_NAMES, check_target
from engine.runtime.integer_products import check_products
from export.errors import ExportError
from export.layout.describe import add_layout
from export.pair_safe.check import PARTS, Comparison, compare_bundles
from export.quantization.exactness import EVERYWHERE, WITH_VNNI, prove_exact
from export.rewrites.codes import Rounded, round_codes
from export.rewrites.edit import FIX, GraphEdit
from export.rewrites.pair_safe import apply_codes, multiplied

# All others multiply in float: the punctuation model, and speech detectors, which we do not export.
GRAPHS = tuple(role for roles in PARTS.values() for role in roles)
TABLE = "mt_embeddings"
NOT_SAFE = "are not pair-safe"  # how engine.runtime.integer_products ends the one problem that is fixed here


@dataclass(frozen=True)
class RoundedBundle:
    """The changed files of a bundle.

    Attributes:
        files: role to content. columns: role to (columns with new codes, columns that products read).
    """

    files: Mapping[str, bytes]
    columns: Mapping[str, tuple[int, int]]


def make_pair_safe(source: Path, out: Path, parts: Collection[str] = tuple(PARTS)) -> Comparison | None:
    """Write a bundle again with pair-safe weights.

    Args:
        parts: of PARTS; all others are copied as they are.
    Returns:
        How the new graphs compare with the old ones; None, with nothing written, where all weights are
        pair-safe.
    Raises:
        ExportError: no int8 bundle, or graphs with parts that are not known here; nothing was written.
        BundleError: the bundle is damaged, or `out` cannot become a bundle.
    """
    if not source.is_dir() and source.suffix == ".onnx":
        raise ExportError(f"{str(source)!r} is a bare graph", "the folder of a bundle", FIX)
    bundle = open_bundle(source)
    check_target(out)
    rounded = round_bundle(bundle, parts)
    if not any(changed for changed, _ in rounded.columns.values()):
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="export-") as temporary:
            files = {entry.role: bundle.file(entry.role) for entry in bundle.manifest.files}
            for role in {*files}.intersection((*GRAPHS, TABLE)):  # tables are in the graphs' folder
                files[role] = Path(temporary, FILE_NAMES[role])
                files[role].write_bytes(rounded.files.get(role) or bundle.read(role))
            for role in rounded.columns:
                prove_exact(files[role])
            changed = Bundle(Path(temporary), bundle.manifest, files)
            comparison = compare_bundles(bundle, changed, rounded.columns)
            _write(bundle, out, files, comparison)
    except OSError as error:
        raise ExportError(
            f"{str(out)!r} could not be written ({error})", "free space and write access"
        ) from error
    return comparison


def round_bundle(bundle: Bundle, parts: Collection[str] = tuple(PARTS)) -> RoundedBundle:
    """Round what is not pair-safe in the graphs of a bundle's parts.

    Raises:
        ExportError: names all problems.
    """
    roles = [role for part in parts for role in PARTS[part] if bundle.has(role)]
    found = {role: check_products(bundle.file(role)) for role in roles}
    problems = [
        f"{role}: {problem}"
        for role, check in found.items()
        for problem in check.problems
        if not problem.endswith(NOT_SAFE)
    ]
    problems += [
        f"{role}: the file is called {name!r}"
        for role in (*roles, TABLE)
        if bundle.has(role) and (name := bundle.file(role).name) != FILE_NAMES[role]
    ]
    if not any(check.n_products for check in found.values()) and not problems:
        problems = [f"no graph of {' or '.join(parts)} multiplies integers"]
    if problems:
        raise ExportError(
            f"{bundle.name!r}: " + "; ".join(problems[:3]) + (" ..." if len(problems) > 3 else ""),
            "an int8 bundle with the operators that engine-export writes",
            "export the checkpoint with --precision int8",
        )
    try:
        return _round_graphs(bundle, roles)
    except ExportError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ExportError(
            f"{bundle.name!r}: a part in another form ({error})", "graphs of engine-export", FIX
        ) from error


def _round_graphs(bundle: Bundle, roles: list[str]) -> RoundedBundle:
    table = bytearray(bundle.read(TABLE) if bundle.has(TABLE) else b"")
    name = bundle.file(TABLE).name if bundle.has(TABLE) else ""
    graphs = {
        role: GraphEdit(bundle.read(role), name if role.startswith("mt_") else "", bytes(table))
        for role in roles
    }
    changes: dict[str, dict[str, Rounded]] = {role: {} for role in roles}
    in_table: dict[tuple[int, int], Rounded] = {}
    columns = {}
    for role, graph in graphs.items():
        found = {key: round_codes(graph.array(key), layout) for key, layout in multiplied(graph).items()}
        changes[role] = {key: change for key, change in found.items() if change.n_changed}
        if found:
            sizes = [(change.n_changed, change.factors.size) for change in found.values()]
            columns[role] = (sum(changed for changed, _ in sizes), sum(size for _, size in sizes))
        for key, change in changes[role].items():
            place = graph.place_in_table(key)
            if place is not None:
                in_table[place.start, place.stop] = change
                table[place] = change.codes.tobytes()
    files = {}
    for role, graph in graphs.items():
        changes[role] |= _shared(graph, in_table)
        if changes[role]:
            apply_codes(graph, changes[role])
            files[role] = graph.serialize()
    if in_table:
        files[TABLE] = bytes(table)
    described = {
        role: add_layout(data, role, {name: bytes(table)}) for role, data in files.items() if role != TABLE
    }
    return RoundedBundle(files | described, columns)


def _shared(graph: GraphEdit, in_table: Mapping[tuple[int, int], Rounded]) -> dict[str, Rounded]:
    """A graph's tensors in parts of a table that have changed, maybe because of another graph.

    Raises:
        ExportError: one uses the same bytes as something else.
    """
    found = {}
    for name, tensor in graph.tensors.items():
        place = graph.place_in_table(name)
        for (start, stop), change in in_table.items():
            if place is None or place.stop <= start or stop <= place.start:
                continue
            layout = multiplied(graph).get(name, change.layout)
            if (place.start, place.stop) != (start, stop) or tuple(tensor.dims) != change.codes.shape:
                raise ExportError(f"{name!r} overlaps another table", "tables that do not overlap", FIX)
            if layout != change.layout:
                raise ExportError(f"{name!r} is multiplied both as it is and transposed", "one of both", FIX)
            found[name] = change
    return found


def _write(bundle: Bundle, out: Path, files: Mapping[str, Path], comparison: Comparison) -> None:
    manifest = bundle.manifest
    old = bundle.path / CARD
    card = old.read_text(encoding="utf-8") if old.is_file() else f"# {manifest.name}\n"
    card = card.replace(
        f"Integer products are exact on: {WITH_VNNI}", f"Integer products are exact on: {EVERYWHERE}"
    )
    write_bundle(
        out,
        name=manifest.name,
        licence=manifest.licence,
        files=files,
        card="\n".join([card.rstrip(), "", *comparison.card(), ""]),
        acoustic=_with_figures(manifest, "acoustic", comparison),
        decoding=manifest.decoding,
        translation=_with_figures(manifest, "translation", comparison),
        figures=manifest.figures,
        second_pass=manifest.second_pass,
    )


def _with_figures(manifest: Manifest, part: str, comparison: Comparison) -> Any:
    """A part's configuration, with the processors where it is exact and the effect of rounding again."""
    config, figures = getattr(manifest, part), comparison.figures(part)
    if config is None or not figures:
        return config
    return msgspec.structs.replace(
        config, figures={**config.figures, "exact_on": EVERYWHERE, "pair_safe": figures}
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `engine-export pair-safe`."""
    parser.add_argument("bundle", type=Path, help="folder of an int8 bundle, or the name of an embedded one")
    parser.add_argument("out", type=Path, help="folder of the new bundle; an existing bundle is replaced")
    parser.add_argument(
        "--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="what to change (both)"
    )


def run(options: argparse.Namespace) -> int:
    """Round, check, compare and write; print what changed."""
    comparison = make_pair_safe(options.bundle, options.out, options.parts)
    if comparison is None:
        parts = " and ".join(options.parts)
        print(f"{options.bundle}: integer weights of {parts} are pair-safe already; nothing was written")
        return 0
    print("\n".join(comparison.table()))
    print(f"wrote {options.out}")
    return 0
