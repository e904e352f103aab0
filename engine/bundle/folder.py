"""A model folder: manifest.json, SHA-256 of every file, safe names only; nothing else is ever opened."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.bundle.bare import read_bare
from engine.bundle.json_file import convert_json, read_json
from engine.bundle.schema import (
    SCHEMA_VERSION,
    AcousticConfig,
    DecodingConfig,
    FeatureConfig,
    FileEntry,
    Manifest,
    SecondPassConfig,
    TranslationConfig,
)
from engine.bundle.target import CARD, FILE_NAMES, MANIFEST, check_target
from engine.bundle.tokens_file import NAMES as TOKENS_FILES
from engine.bundle.tokens_file import read_tokens_file
from engine.errors import (
    BundleError,
    BundleIntegrityError,
    BundleNotFoundError,
    BundleSchemaError,
    ModelCapabilityError,
    ModelError,
)
from engine.runtime.onnx_file import OnnxFormatError, external_files

__all__ = [
    "AcousticConfig",
    "Bundle",
    "DecodingConfig",
    "FeatureConfig",
    "Manifest",
    "SecondPassConfig",
    "TranslationConfig",
    "open_bundle",
    "write_bundle",
]

BUNDLED = Path(__file__).parents[1] / "bundled"
DEFAULT = "de-en-base"
MAX_MANIFEST_BYTES = 4 << 20
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


class Bundle:
    """An opened, verified model folder: its absolute path, and the source that open_bundle takes for it."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        files: Mapping[str, Path],
        added_tokens: Mapping[str, int] | None = None,
        source: Path | None = None,
    ) -> None:
        self.path, self.source = path, source or path
        self._added_tokens = dict(added_tokens or {})
        self.manifest = manifest
        self._files = dict(files)

    @property
    def name(self) -> str:
        """The name in the manifest, or of the bare model file."""
        return self.manifest.name

    def has(self, role: str) -> bool:
        """Whether the bundle holds a file of this role."""
        return role in self._files

    def file(self, role: str) -> Path:
        """The path of a role's file.

        Raises:
            ModelCapabilityError: the bundle holds no such file.
        """
        if role not in self._files:
            raise ModelCapabilityError(
                f"bundle {self.name!r} has no file of role {role!r}",
                f"a bundle with {role!r} (this one has: {', '.join(sorted(self._files))})",
                "load another bundle, or export one that includes it",
            )
        return self._files[role]

    def read(self, role: str) -> bytes:
        """The bytes of a role's file."""
        return self.file(role).read_bytes()

    def graph(self, role: str, *tables: str) -> bytes:
        """The bytes of a role's graph, whose tensors lie in it or in the files of the roles `tables`.

        Raises:
            ModelCapabilityError: the bundle holds no such file.
            ModelError: it is no graph. BundleIntegrityError: it wants to read another file.
        """
        content, name = self.read(role), self.file(role).name
        try:
            foreign = external_files(content) - {self.file(table).name for table in tables}
        except OnnxFormatError as error:
            raise ModelError(f"{name}: {error}", "an ONNX graph", _RE_EXPORT) from error
        if foreign:
            raise BundleIntegrityError(
                f"{name} keeps weights in another file ({min(foreign)[:80]!r})",
                "one self-contained ONNX file, or the bundle's own table",
                "export it again without external data",
            )
        return content

    def graph_source(self, role: str) -> bytes | Path:
        """A graph's bytes; its path where it is a bare model whose weights lie in files beside it.

        torch's newer exporter writes such files: w2v.onnx.data beside w2v.onnx.

        Raises:
            As graph does; also BundleIntegrityError for a file that is no plain one of the same folder.
        """
        path = self.file(role)
        if self.source != path:  # a bundle, all of whose files are in its manifest
            return self.graph(role)
        try:
            beside = external_files(path.read_bytes())
        except OnnxFormatError as error:
            raise ModelError(f"{path.name}: {error}", "an ONNX graph", _RE_EXPORT) from error
        for name in sorted(beside):
            weights = path.with_name(name) if _PLAIN_NAME.fullmatch(name) else None
            if weights is None or weights.is_symlink() or not weights.is_file():
                raise BundleIntegrityError(
                    f"{path.name} keeps weights in {name[:80]!r}, which is not a file next to it",
                    "plain files in the same folder",
                    "copy the file that was written with the graph, or export it without external data",
                )
        return path if beside else path.read_bytes()

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Tokens of the acoustic model by output index.

        Raises:
            BundleSchemaError: vocab.json is not a map of token to 0 ... n-1.
        """
        return _read_vocabulary(self.file("vocabulary"), self._added_tokens)


def open_bundle(path: str | os.PathLike[str] | None = None) -> Bundle:
    """Open a bundle, or a bare ONNX model with its vocab.json beside it.

    Args:
        path: a bundle's folder; a folder that optimum-cli wrote (model.onnx, vocab.json); an
            .onnx file; the name of an embedded bundle; None for the embedded default.
    Raises:
        BundleNotFoundError, BundleSchemaError, BundleIntegrityError, BundleError.
    """
    location = _resolve(path)
    if location.suffix == ".onnx":
        return _open_bare(location)
    if not (location / MANIFEST).exists() and (location / "model.onnx").is_file():
        return _open_bare(location / "model.onnx")
    return _open_folder(location)


def _resolve(path: str | os.PathLike[str] | None) -> Path:
    location = BUNDLED / DEFAULT if path is None else Path(path)
    if not location.exists() and path is not None and _PLAIN_NAME.fullmatch(str(path)):
        embedded = BUNDLED / str(path)
        location = embedded if embedded.is_dir() else location
    if not location.exists():
        raise BundleNotFoundError(
            f"no model at {str(location)!r}",
            "a bundle folder, an .onnx file with vocab.json next to it, or an embedded bundle's name",
            "check the path; `engine info` without an argument shows the embedded default",
        )
    if location.is_file() and location.suffix != ".onnx":
        raise BundleError(
            f"{str(location)!r} is a file", "a bundle folder or an .onnx file", "pass its folder"
        )
    return location.absolute()


def _open_folder(folder: Path) -> Bundle:
    manifest = _read_manifest(folder / MANIFEST)
    files: dict[str, Path] = {}
    for entry in manifest.files:
        if entry.role in files:
            raise BundleSchemaError(
                f"{MANIFEST} lists role {entry.role!r} twice", "each role once", _RE_EXPORT
            )
        files[entry.role] = _verified(folder, entry)
    return Bundle(folder, manifest, files)


_RE_EXPORT = "export the bundle again, or restore the original file"


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file() or path.is_symlink():
        raise BundleNotFoundError(f"{str(path)!r} does not exist", f"a bundle with {MANIFEST}", _RE_EXPORT)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleSchemaError(f"{path.name} has {path.stat().st_size} bytes", "at most 4 MiB", _RE_EXPORT)
    raw = read_json(path, dict[str, Any], "a manifest")
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise BundleSchemaError(
            f"manifest schema_version {raw.get('schema_version')!r}",
            f"schema_version {SCHEMA_VERSION}",
            "upgrade the engine, or export the bundle with this version",
        )
    return convert_json(raw, Manifest, path.name, "a manifest of its schema")


def _verified(folder: Path, entry: FileEntry) -> Path:
    if not _PLAIN_NAME.fullmatch(entry.path) or entry.path in (MANIFEST, CARD):
        raise BundleIntegrityError(
            f"{MANIFEST} names the path {entry.path!r}",
            "a plain file name inside the bundle",
            "do not use this bundle: it tries to reach outside its folder",
        )
    path = folder / entry.path
    if path.is_symlink():
        raise BundleIntegrityError(f"{entry.path!r} is a link", "a regular file", "copy the file itself")
    if not path.is_file():
        raise BundleNotFoundError(
            f"{entry.path!r} is missing from {str(folder)!r}", "every listed file", _RE_EXPORT
        )
    size = path.stat().st_size
    if size != entry.bytes or _sha256(path) != entry.sha256:
        raise BundleIntegrityError(
            f"{entry.path!r} differs from the manifest (size {size}, listed {entry.bytes}, or its SHA-256)",
            "the file that was exported",
            _RE_EXPORT,
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_bare(model: Path) -> Bundle:
    names = ("vocab.json", *TOKENS_FILES)
    vocabulary = next((path for name in names if (path := model.with_name(name)).is_file()), None)
    if vocabulary is None:
        raise BundleNotFoundError(
            f"{model.name!r} has no vocabulary next to it",
            f"vocab.json (token to index), {' or '.join(TOKENS_FILES)} in the same folder",
            f"copy the checkpoint's vocab.json to {str(model.parent)!r}, or pass a bundle",
        )
    acoustic, added = read_bare(model, lambda added: _read_vocabulary(vocabulary, added))
    manifest = Manifest(SCHEMA_VERSION, model.stem, "unknown", [], acoustic)
    files = {"acoustic": model, "vocabulary": vocabulary}
    return Bundle(model.parent, manifest, files, added, source=model)


def _read_vocabulary(path: Path, added: Mapping[str, int] | None = None) -> tuple[str, ...]:
    if path.name.endswith(".txt"):
        index = read_tokens_file(path)
    else:
        index = read_json(path, dict[str, int], "a JSON map of token to index")
    index |= {token: at for token, at in (added or {}).items() if at not in index.values()}
    tokens = sorted(index, key=index.__getitem__)
    if sorted(index.values()) != list(range(len(index))) or not tokens:
        raise BundleSchemaError(
            f"{path.name} has gaps or repeated indices", "0 ... n-1, each once", "restore the file"
        )
    return tuple(tokens)


def write_bundle(  # noqa: PLR0913  - each is a part of the manifest, by keyword
    folder: str | os.PathLike[str],
    *,
    name: str,
    licence: str,
    files: Mapping[str, str | os.PathLike[str]],
    card: str,
    acoustic: AcousticConfig | None = None,
    decoding: DecodingConfig | None = None,
    translation: TranslationConfig | None = None,
    figures: Mapping[str, Any] | None = None,
    second_pass: SecondPassConfig | None = None,
) -> Path:
    """Write a bundle beside its place, verify it, then rename it into place.

    Args:
        folder: where the bundle will be; an existing bundle there is replaced.
        files: role to source file; see FILE_NAMES for the roles.
        card: the model card, Markdown.
    Returns:
        The folder.
    Raises:
        BundleError: an unknown role, a missing source, or a folder that is not a bundle or cannot be written.
    """
    target = Path(folder)
    check_target(target)
    _check_sources(files)
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        entries = [_copy_in(building, role, Path(source)) for role, source in sorted(files.items())]
        manifest = Manifest(
            SCHEMA_VERSION,
            name,
            licence,
            entries,
            acoustic,
            decoding or DecodingConfig(),
            translation,
            dict(figures or {}),
            second_pass,
        )
        text = json.dumps(msgspec.to_builtins(manifest), indent=2, ensure_ascii=False)
        (building / MANIFEST).write_text(text + "\n", encoding="utf-8")
        (building / CARD).write_text(card, encoding="utf-8")
        _open_folder(building)
        building.chmod(0o755)
        _swap(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _check_sources(files: Mapping[str, str | os.PathLike[str]]) -> None:
    problems = [f"unknown role {role!r}" for role in files if role not in FILE_NAMES]
    problems += [
        f"{role}: {os.fspath(source)!r} is missing"
        for role, source in files.items()
        if not Path(source).is_file()
    ]
    if problems:
        raise BundleError("; ".join(problems), f"roles {', '.join(FILE_NAMES)}", "correct the arguments")


def _copy_in(folder: Path, role: str, source: Path) -> FileEntry:
    path = folder / FILE_NAMES[role]
    shutil.copyfile(source, path)
    return FileEntry(role, path.name, _sha256(path), path.stat().st_size)


def _swap(building: Path, target: Path) -> None:
    if not target.exists():
        building.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.rename(old / target.name)
    building.rename(target)
    shutil.rmtree(old, ignore_errors=True)
