"""numba's types as JSON, for the list of what is compiled ahead of time (signatures.json)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numba.core import types
from numba.np.numpy_support import as_dtype, from_dtype

Encoded = Any  # what json reads and writes
_types: Any = types  # numba does not say what its constructors take


def encode(kind: Any) -> Encoded:
    """A type as JSON.

    Args:
        kind: a number, an array of numbers or of records of numbers, or a tuple of such types, named or not.
    Raises:
        TypeError: another kind of type.
    """
    if isinstance(kind, types.Number | types.Boolean | types.NoneType):
        return str(kind)
    if isinstance(kind, types.Record):
        return _encode_record(kind)
    if isinstance(kind, types.Array):
        flags = [kind.ndim, kind.layout, *([] if kind.mutable else ["readonly"])]
        dtype = encode(kind.dtype)
        return {"array": dtype, "form": [*flags, *([] if kind.aligned else ["unaligned"])]}
    if isinstance(kind, types.NamedTuple | types.NamedUniTuple):
        owner = kind.instance_class
        return {"class": f"{owner.__module__}:{owner.__qualname__}", "of": [encode(part) for part in kind]}
    if isinstance(kind, types.UniTuple):
        return {"times": kind.count, "of": encode(kind.dtype)}
    if isinstance(kind, types.Tuple):
        return {"of": [encode(part) for part in kind]}
    raise TypeError(f"{kind!r} is not a type that is compiled ahead")


def _encode_record(record: Any) -> Encoded:
    """Names, formats with shapes, and places of a record's fields; its size, and whether it is aligned."""
    dtype: Any = as_dtype(record)
    fields = [(name, *dtype.fields[name][:2]) for name in dtype.names]
    rows = [[name, field.base.str, list(field.shape), place] for name, field, place in fields]
    return {"fields": rows, "size": dtype.itemsize, "aligned": record.aligned}


def _decode_record(encoded: Encoded) -> Any:
    names, formats, shapes, places = zip(*encoded["fields"], strict=True)
    form: Any = {
        "names": names,
        "formats": [(kind, tuple(shape)) for kind, shape in zip(formats, shapes, strict=True)],
        "offsets": places,
        "itemsize": encoded["size"],
    }
    return from_dtype(np.dtype(form, align=encoded["aligned"]))


def decode(encoded: Encoded) -> Any:
    """The inverse of encode."""
    if isinstance(encoded, str):
        return types.none if encoded == "none" else getattr(_types, {"bool": "boolean"}.get(encoded, encoded))
    if "fields" in encoded:
        return _decode_record(encoded)
    if "array" in encoded:
        n_dims, layout, *flags = encoded["form"]
        dtype = decode(encoded["array"])
        return _types.Array(dtype, n_dims, layout, "readonly" in flags, aligned="unaligned" not in flags)
    if "times" in encoded:
        return _types.UniTuple(decode(encoded["of"]), encoded["times"])
    parts = [decode(part) for part in encoded["of"]]
    if "class" not in encoded:
        return _types.Tuple(parts)
    module, _, name = encoded["class"].partition(":")
    owner = getattr(importlib.import_module(module), name)
    if len(set(parts)) == 1:
        return _types.NamedUniTuple(parts[0], len(parts), owner)
    return _types.NamedTuple(parts, owner)
