"""`engine-export names BUNDLE NAMES OUT`: a bundle whose translator can tell names."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.bundle.folder import open_bundle
from engine.bundle.target import check_target
from engine.errors import BundleSchemaError
from engine.output.targets import check_apart
from engine.translation.names import NameFinder
from export.bundle import write_again
from export.errors import ExportError

ROLE = "mt_names"


def add_names(source: Path, names: Path, out: Path) -> None:
    """Write a bundle again with a model of names, which replaces an older one.

    Args:
        source: the folder of a bundle. names: what `engine-train mt-names` wrote.
        out: the folder to write; may be the same.
    Raises:
        ExportError: no translator, or not such a file; nothing was written.
        BundleError: the bundle is damaged, or `out` cannot become a bundle.
    """
    bundle = open_bundle(source)
    if bundle.manifest.translation is None:
        raise ExportError(f"{bundle.name!r} has no translator", "a bundle with one", "name another bundle")
    check_target(out)
    check_apart([out], [names])
    try:
        NameFinder.read(names.read_bytes(), names.name)
        files = {entry.role: bundle.file(entry.role) for entry in bundle.manifest.files}
        write_again(bundle, out, {**files, ROLE: names})
    except BundleSchemaError as error:
        raise ExportError(str(error), "what `engine-train mt-names` wrote", "train it again") from error
    except OSError as error:
        raise ExportError(f"{error}", "files that can be read and written", "check the paths") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `engine-export names`."""
    parser.add_argument("bundle", type=Path, help="folder of a bundle, or the name of an embedded one")
    parser.add_argument("names", type=Path, help="file that `engine-train mt-names` wrote")
    parser.add_argument("out", type=Path, help="folder of the new bundle; an existing bundle is replaced")


def run(options: argparse.Namespace) -> int:
    """Write the bundle."""
    add_names(options.bundle, options.names, options.out)
    print(f"wrote {options.out}")
    return 0
