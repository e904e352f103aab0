"""Changes to files that keep their structure: JSON trees, protobuf messages, tables, lines; and plain bytes.

Every function takes a numpy Generator and is a function of it and its input alone, so that a case can be
made again from its seed and number.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator
Schema = Mapping[int, Any]  # number of a field that is a message -> the schema of that message
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 31, 32, 33, 64, 127, 255, 256, 1000, 32_767, 65_535, 65_536, 10**6, 2**31 - 1, 2**31,
    2**32, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 10**30, 0.5, -0.5, 1e-9, 5e-324, 1e6, 1e38, 1e300,
    -1e300, 1.7976931348623157e308, float("nan"), float("inf"), -float("inf"),
)  # fmt: skip
LITERALS = (
    "1e400", "-1e400", "1e-400", "-0", "-0.0", "9" * 400, "9" * 5000, "0x10", "01", "NaN", "-Infinity", "1.",
    "0.1e", "1e9999999999", "true", "null", '""', "[]", "{}",
)  # fmt: skip
STRINGS = (
    "", " ", "\0", "a\0b", "\ud800", "\udfff\ud800", "ä", "ß", "🙂", "\u2028", "\u202e", "\ufeff", "|", "▁",
    "<unk>", "<pad>", "</s>", "..", "../x", "/etc/passwd", "a" * 200, "ä" * 70_000, "1e400", "nan", "-1", "0",
    "acoustic.onnx", "int8", "bf16", "cuda", "log_mel", "kaldi", "a\tb", "a\nb", "\r", "=1+1",
    "%s%n", "{0.__class__}",
)  # fmt: skip
WORDS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\0\0\xc0\x7f",
    b"\0\0\x80\x7f",
    b"\1\0\0\0",
)


def pick(rng: Rng, items: Sequence[Any]) -> Any:
    """One of the items."""
    return items[int(rng.integers(len(items)))]


def mutate_bytes(content: bytes, rng: Rng, others: Sequence[bytes] = ()) -> bytes:
    """Bytes changed, cut, doubled, inserted, moved, or a part of another file put in."""
    data = bytearray(content) or bytearray(b"\0")
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(data) if rng.random() < 0.5 else min(len(data), 400)))
        length = int(rng.integers(1, 64))
        kind = int(rng.integers(9))
        if kind <= 2:
            for _ in range(int(rng.integers(1, 9))):
                data[(at + int(rng.integers(64))) % len(data)] = int(rng.integers(256))
        elif kind == 3:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 4:
            data[at : at + 4] = pick(rng, WORDS)
        elif kind == 5:
            del data[max(at, 1) : at + length if rng.random() < 0.7 else None]
        elif kind == 6:
            data[at:at] = data[at : at + 16 * length]
        elif kind == 7:
            data[at:at] = rng.bytes(length)
        elif others:
            other = pick(rng, others)
            start = int(rng.integers(len(other) or 1))
            data[at : at + length] = other[start : start + 4 * length]
        data = data or bytearray(b"\0")
    return bytes(data)


def mutate_tree(tree: Any, rng: Rng) -> Any:
    """A JSON tree with one to three of its places changed; the tree itself is left as it is."""
    tree = json.loads(json.dumps(tree))
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(tree))
        if not places:
            return pick(rng, (None, [], 0, "", True))
        holder, key = pick(rng, places)
        _change(holder, key, rng)
    return tree


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def _change(holder: Any, key: Any, rng: Rng) -> None:
    value, kind = holder[key], int(rng.integers(10))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[pick(rng, STRINGS) if rng.random() < 0.5 else f"{key}x"] = holder.pop(key)
    elif kind == 1:
        holder.insert(key, value)
    elif kind == 2:
        holder[key] = pick(rng, (None, True, False, [], {}, [value], {"a": value}, [[[]]], "x", 1))
    elif kind == 3 and isinstance(holder, list):
        other = int(rng.integers(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    elif kind == 3:
        other = pick(rng, list(holder))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = _like(value, rng)


def _like(value: Any, rng: Rng) -> Any:
    """Another value of the same type, mostly."""
    if rng.random() < 0.1:
        return pick(rng, (*NUMBERS, *STRINGS))
    if isinstance(value, bool) or value is None:
        return pick(rng, (True, False, None))
    if isinstance(value, int | float):
        near = (value + 1, value - 1, value * 2, value * 10, value / 2, -value, float(value))
        return pick(rng, NUMBERS if rng.random() < 0.6 else near)
    if isinstance(value, str):
        near = (value + "x", value[:-1], value * 2, value.upper(), value[::-1], "x" + value)
        return pick(rng, STRINGS if rng.random() < 0.6 else near)
    if isinstance(value, list):
        return pick(rng, (value * 2, value[::-1], value[:-1], value * 100 if len(value) < 50 else value[:1]))
    return {**value, pick(rng, STRINGS): pick(rng, NUMBERS)}


def dump_json(tree: Any, rng: Rng) -> bytes:
    """A tree as JSON, now and then with what json.dumps would not write, or damaged."""
    text = json.dumps(tree, indent=int(rng.integers(3)) or None, ensure_ascii=bool(rng.random() < 0.8))
    if rng.random() < 0.15:
        found = list(re.finditer(r"(?<=[ :\[,])-?\d+(\.\d+)?(e[+-]?\d+)?(?=[,\]}\s])", text))
        if found:
            match = pick(rng, found)
            text = text[: match.start()] + pick(rng, LITERALS) + text[match.end() :]
    if rng.random() < 0.03:
        depth = int(10 ** rng.uniform(1, 5.5))
        text = text.replace(": ", ": " + "[" * depth, 1) if rng.random() < 0.5 else "[" * depth
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(data, rng) if rng.random() < 0.1 else data


def mutate_message(data: bytes, schema: Schema, rng: Rng) -> bytes:
    """A protobuf message with a few fields changed; the lengths around them are right again."""
    for _ in range(int(rng.integers(1, 4))):
        try:
            data = _mutate_message(data, schema, rng)
        except (IndexError, struct.error):
            return mutate_bytes(data, rng)
    return data


def _mutate_message(data: bytes, schema: Schema, rng: Rng) -> bytes:
    fields = split_message(data)
    if not fields:
        return _field(int(rng.integers(1, 16)), 0, int(rng.integers(4)))
    numbers = sorted({number for number, _, _ in fields})
    wanted = pick(rng, numbers)  # every kind of field alike, however many of it there are
    at = pick(rng, [i for i, field in enumerate(fields) if field[0] == wanted])
    number, kind, value = fields[at]
    if kind == 2 and number in schema and rng.random() < 0.85:
        fields[at] = number, kind, _mutate_message(value, schema[number], rng)
    else:
        _change_field(fields, at, rng)
    return write_message(fields)


def _change_field(fields: list[tuple[int, int, Any]], at: int, rng: Rng) -> None:
    number, kind, value = fields[at]
    action = int(rng.integers(10))
    if action == 0:
        del fields[at]
    elif action == 1:
        fields.insert(int(rng.integers(len(fields) + 1)), fields[at])
    elif action == 2:
        fields[at] = int(rng.integers(1, 32)), kind, value
    elif action == 3:
        other = int(rng.integers(len(fields)))
        fields[at], fields[other] = (number, *fields[other][1:]), (fields[other][0], kind, value)
    elif kind == 0:
        fields[at] = (
            number,
            kind,
            pick(rng, (*range(13), *[n % 2**64 for n in NUMBERS if isinstance(n, int)])),
        )
    elif kind == 2:
        fields[at] = number, kind, _other_bytes(value, fields, rng)
    else:
        size = 4 if kind == 5 else 8
        fields[at] = number, kind, (pick(rng, WORDS) * 2)[:size]


def _other_bytes(value: bytes, fields: list[tuple[int, int, Any]], rng: Rng) -> bytes:
    kind = int(rng.integers(6))
    if kind == 0:
        return pick(rng, STRINGS).encode("utf-8", "surrogatepass")
    if kind == 1:
        return value[: int(rng.integers(len(value) + 1))]
    if kind == 2:
        return pick(rng, [field[2] for field in fields if field[1] == 2])
    if kind == 3 and len(value) % 4 == 0 and value:  # numbers of a tensor
        at = 4 * int(rng.integers(len(value) // 4))
        return value[:at] + pick(rng, WORDS) + value[at + 4 :]
    return mutate_bytes(value, rng)


def split_message(data: bytes) -> list[tuple[int, int, Any]]:
    """Number, wire type and content of every field."""
    fields, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            fields.append((key >> 3, kind, value))
            continue
        size = {5: 4, 1: 8}.get(kind)
        if size is None:
            size, at = _varint(data, at)
        if kind not in (1, 2, 5) or at + size > len(data):
            raise IndexError("no message")
        fields.append((key >> 3, kind, data[at : at + size]))
        at += size
    return fields


def write_message(fields: Sequence[tuple[int, int, Any]]) -> bytes:
    """What split_message takes apart."""
    return b"".join(_field(*field) for field in fields)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise IndexError("no number")


def _field(number: int, kind: int, value: Any) -> bytes:
    head = _encoded(number << 3 | kind)
    if kind == 0:
        return head + _encoded(value)
    return head + (_encoded(len(value)) if kind == 2 else b"") + value


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def mutate_lines(data: bytes, rng: Rng, words: Sequence[str] = ()) -> bytes:
    """Text with lines and fields changed, doubled, moved and dropped; now and then in another encoding."""
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    for _ in range(int(rng.integers(1, 4))):
        if lines:
            _change_line(lines, int(rng.integers(len(lines))), rng, words)
    text = ("\r\n" if rng.random() < 0.05 else "\n").join(lines)
    kind = int(rng.integers(40))
    if kind == 0:
        return text.encode("utf-16", "surrogatepass")
    if kind == 1:
        return text.encode("latin-1", "replace")
    if kind == 2:
        return text.encode("utf-16-le", "surrogatepass")
    if kind == 3:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    found = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(found, rng) if kind < 8 else found


def _change_line(lines: list[str], at: int, rng: Rng, words: Sequence[str]) -> None:
    kind = int(rng.integers(9))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[at])
    elif kind == 2:
        other = int(rng.integers(len(lines)))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = lines[at][: int(rng.integers(len(lines[at]) + 1))]
    else:
        parts = re.split(r"([\t ,:=\[\]{}\"|]+)", lines[at])
        place = int(rng.integers(len(parts)))
        value = str(pick(rng, (*NUMBERS, *LITERALS, *STRINGS, *words, *words)))
        parts[place] = value if kind < 8 else parts[place] * 2
        lines[at] = "".join(parts)


def mutate_arrays(data: bytes, rng: Rng) -> bytes:
    """An .npz with arrays of other values, types, lengths or names, or a header that promises too much."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for _ in range(int(rng.integers(1, 3))):
        name = pick(rng, sorted(arrays))
        arrays[name] = pick(rng, _ARRAY_CHANGES)(arrays[name], rng)
        if rng.random() < 0.05:
            del arrays[name]
            arrays.setdefault("other", np.zeros(1))
    buffer = io.BytesIO()
    (np.savez if rng.random() < 0.5 else np.savez_compressed)(buffer, **arrays)
    found = buffer.getvalue()
    if rng.random() < 0.1:
        wide = str(pick(rng, (10**6, 10**9, 10**12))).encode()
        found = re.sub(rb"'shape': \(\d+,\)", b"'shape': (" + wide + b",)", found, count=1)
    return mutate_bytes(found, rng) if rng.random() < 0.1 else found


def _set_one(array: Any, rng: Rng) -> Any:
    found = np.array(array)
    if found.size:
        info = np.iinfo(found.dtype) if found.dtype.kind in "iu" else None
        values = (0, 1, info.max, info.min, info.max - 1) if info else (0, np.nan, np.inf)
        found.reshape(-1)[int(rng.integers(found.size))] = pick(rng, values)
    return found


_ARRAY_CHANGES: tuple[Callable[[Any, Rng], Any], ...] = (
    _set_one,
    _set_one,
    _set_one,
    lambda array, rng: array[: int(rng.integers(len(array) + 1))] if array.ndim else array,
    lambda array, rng: np.concatenate([array, array[: int(rng.integers(1, 5))]]) if array.ndim else array,
    lambda array, rng: array.astype(pick(rng, ("i1", "u1", "i8", "u8", "f4", "f8", "?", "U3"))),
    lambda array, rng: np.zeros(pick(rng, ((0,), (1, 1), (), (2, 3))), array.dtype),
    lambda array, rng: np.zeros(int(10 ** rng.uniform(3, 6)), array.dtype),
    lambda array, rng: array[::-1],
    lambda array, rng: rng.integers(0, 100, array.shape).astype(array.dtype),
)
