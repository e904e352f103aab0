"""Configurations: YAML to a dataclass, every field checked, one error with all problems."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from engine.errors import EngineError

T = TypeVar("T")
MISSING = object()


class ConfigError(EngineError, ValueError):
    """A configuration that cannot be used.

    Attributes:
        problems: each of them, in words.
    """

    def __init__(self, got: str, want: str = "", fix: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(got, want, fix)
        self.problems = list(problems) or [got]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: in PyYAML's YAML 1.1, 1e-4 (no point, no sign) is a text."""


_Loader.yaml_implicit_resolvers = {
    key: list(resolvers) for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


MAX_NESTING = 100
MAX_VALUES = 100_000  # in a configuration, each alias counted as what it stands for


def parse_value(text: str) -> Any:
    """Return the value of one piece of YAML, such as `1e-4` or `[a, b]`.

    Raises:
        yaml.YAMLError: not YAML, values that are none (99th of a month), or aliases that grow without end.
    """
    if _nesting(text) > MAX_NESTING:  # which PyYAML reads in quadratic time
        raise yaml.YAMLError(f"brackets in more than {MAX_NESTING} others")
    loader = _Loader(text)  # a subclass of SafeLoader
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count_values(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values")
        return loader.construct_document(node)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, UnicodeError):
            raise
        raise yaml.YAMLError(f"a value that is none ({error})") from error  # PyYAML lets them through
    finally:
        loader.dispose()


def _nesting(text: str) -> int:
    """The most brackets that are open at once, those in strings counted too."""
    steps = (1 if char in "[{" else -1 for char in text if char in "[]{}")
    return max(itertools.accumulate(steps), default=0)


def _count_values(node: Any, counted: dict[int, int]) -> int:
    """How many values a node has, with those that its aliases stand for; too many where it holds itself."""
    if id(node) in counted:
        return counted[id(node)]
    counted[id(node)] = MAX_VALUES + 1  # until it is known
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    inner = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
    counted[id(node)] = min(1 + sum(_count_values(one, counted) for one in inner), MAX_VALUES + 1)
    return counted[id(node)]


def read_tree(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        ConfigError: not UTF-8, not YAML, or not keys and values.
        OSError: the file cannot be read.
    """
    try:
        tree = parse_value(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}, want keys and values")
    return tree or {}


def build_config(kind: type[T], tree: Mapping[str, Any], source: str = "", hint: str = "") -> T:
    """Make a configuration with checked values.

    Args:
        kind: a dataclass; its __post_init__ may raise ConfigError about the values themselves.
        tree: values by name; a section is a mapping.
        source: where they come from, for the message.
        hint: where the keys are explained, for the message.
    Raises:
        ConfigError: names all unknown and missing keys, wrong types and impossible values.
    """
    problems: list[str] = []
    config = _build(kind, tree, "", problems)
    if problems:
        fix = hint and f"see {hint}"
        raise ConfigError(f"{source}: {'; '.join(problems)}".removeprefix(": "), "", fix, problems)
    return typing.cast(T, config)


def _build(kind: Any, tree: Any, prefix: str, problems: list[str]) -> Any:
    if not isinstance(tree, Mapping):
        problems.append(f"{prefix or 'the file'} must be a mapping, got {type(tree).__name__}")
        return None
    fields = {field.name: field for field in dataclasses.fields(kind)}
    problems += [_unknown(prefix, str(key), list(fields)) for key in tree if key not in fields]
    hints, values, broken = typing.get_type_hints(kind), {}, []
    for name, field in fields.items():
        if name in tree:
            value = _convert(tree[name], hints[name], f"{prefix}{name}", problems)
            if value is MISSING:
                broken.append(name)
            else:
                values[name] = value
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"missing key {prefix}{name}")
            broken.append(name)
    try:
        return _make(kind, values, broken)
    except ConfigError as error:
        known = tuple(f"{name}:" for name in broken)  # their problems are listed already
        problems += [f"{prefix}{problem}" for problem in error.problems if not problem.startswith(known)]
        return None


def _make(kind: Any, values: dict[str, Any], broken: Sequence[str]) -> Any:
    """The dataclass, or None where fields are wrong; its problems with other values are still raised."""
    if not broken:
        return kind(**values)
    if hasattr(kind, "__post_init__"):
        half = object.__new__(kind)
        for field in dataclasses.fields(kind):
            default = field.default_factory() if callable(field.default_factory) else field.default
            given = values.get(field.name, None if default is dataclasses.MISSING else default)
            object.__setattr__(half, field.name, given)
        with contextlib.suppress(AttributeError, TypeError):  # a check that needs a broken field
            half.__post_init__()
    return None


def _unknown(prefix: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f"unknown key {prefix}{key}" + (f", did you mean {near[0]}?" if near else "")


def _convert(value: Any, wanted: Any, name: str, problems: list[str]) -> Any:
    """Return a value as the field's type wants it, or MISSING and a problem added to the list."""
    if dataclasses.is_dataclass(wanted):
        built = _build(wanted, value, f"{name}.", problems)
        return MISSING if built is None else built
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _convert(value, next(kind for kind in inner if kind is not type(None)), name, problems)
    if origin is tuple:
        return _convert_list(value, inner, name, problems)
    if origin in (dict, Mapping) or wanted in (dict, Mapping):
        return _convert_mapping(value, inner, name, problems)
    if wanted is Any:
        return value
    found = _convert_plain(value, wanted)
    if found is MISSING:
        problems.append(f"{name}: got {value!r}, want {_NAMES.get(wanted, str(wanted))}")
    return found


def _convert_list(value: Any, inner: tuple[Any, ...], name: str, problems: list[str]) -> Any:
    """A tuple of any length (X, ...) or of a fixed one; a single text is a list of one."""
    entries = [value] if isinstance(value, str | Path) else value
    length = None if inner[-1] is Ellipsis else len(inner)
    if not isinstance(entries, list | tuple) or (length and len(entries) != length):
        size = f" of {length}" if length else ""
        problems.append(f"{name}: got {value!r}, want a list{size}")
        return MISSING
    kinds = inner if length else (inner[0],) * len(entries)
    found = [
        _convert(entry, kind, f"{name}[{at}]", problems)
        for at, (entry, kind) in enumerate(zip(entries, kinds, strict=True))
    ]
    return MISSING if any(entry is MISSING for entry in found) else tuple(found)


def _convert_mapping(value: Any, inner: tuple[Any, ...], name: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{name}. must be a mapping, got {type(value).__name__}")
        return MISSING
    kind = inner[1] if inner else Any
    found = {str(key): _convert(each, kind, f"{name}.{key}", problems) for key, each in value.items()}
    return MISSING if any(each is MISSING for each in found.values()) else found


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def _convert_plain(value: Any, wanted: Any) -> Any:
    """A bool does not count as a number, nor a number as a text; a text that is a number is accepted."""
    if wanted is bool or isinstance(value, bool):
        return value if wanted is bool and isinstance(value, bool) else MISSING
    if wanted is str:
        return value if isinstance(value, str) else MISSING
    if wanted is Path:
        return Path(value) if isinstance(value, str | Path) else MISSING
    if wanted in (int, float) and isinstance(value, int | float | str):
        return _convert_number(value, wanted)
    return MISSING


def _convert_number(value: int | float | str, wanted: Any) -> Any:
    try:
        number = value if isinstance(value, int) else float(value)
        if wanted is float:
            number = float(number)
        if math.isnan(number):
            return MISSING
    except (OverflowError, ValueError):  # the first for a whole number of hundreds of digits
        return MISSING
    if wanted is float:
        return number
    return int(number) if math.isfinite(number) and number == int(number) else MISSING


def check_choice(name: str, value: str, choices: Sequence[str]) -> list[str]:
    """The problem of a value that is none of the choices; empty for one that is."""
    return [] if value in choices else [f"{name}: got {value!r}, want {' or '.join(choices)}"]


def check_positive(config: Any, names: Sequence[str]) -> list[str]:
    """The problems of fields that must be more than 0."""
    return [
        f"{name}: got {getattr(config, name)}, want more than 0"
        for name in names
        if not getattr(config, name) > 0
    ]


def check_not_negative(config: Any, names: Sequence[str]) -> list[str]:
    """The problems of fields that must not be less than 0."""
    return [
        f"{name}: got {getattr(config, name)}, want 0 or more"
        for name in names
        if not getattr(config, name) >= 0
    ]


def check_share(config: Any, names: Sequence[str]) -> list[str]:
    """The problems of fields that must be from 0 to 1."""
    return [
        f"{name}: got {getattr(config, name)}, want 0 to 1"
        for name in names
        if not 0.0 <= getattr(config, name) <= 1.0
    ]


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one ConfigError with all problems, if there are any."""
    if problems:
        raise ConfigError("; ".join(problems), problems=problems)
