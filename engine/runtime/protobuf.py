"""Protobuf's wire format: the fields of a message, without its schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
VARINT_BITS = 64


def read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number at a place, and where the next field begins.

    Raises:
        ValueError: of more than 64 bits. IndexError: cut off.
    """
    result = 0
    for shift in range(0, VARINT_BITS, 7):
        byte = view[at]
        result |= (byte & 0x7F) << shift
        at += 1
        if not byte & 0x80:
            return result % (1 << VARINT_BITS), at
    raise ValueError("a number of more than 64 bits")


def read_fields(view: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and content of each field: an int, or a memoryview."""
    for number, value, _ in read_places(view):
        yield number, value


def read_places(view: memoryview) -> Iterator[tuple[int, Any, int]]:
    """Number and content of each field, and where it ends.

    Raises:
        ValueError, IndexError: the bytes are no message.
    """
    at = 0
    while at < len(view):
        key, at = read_varint(view, at)
        kind = key & 7
        if kind == VARINT:
            value, at = read_varint(view, at)
            yield key >> 3, value, at
        elif kind == BYTES:
            size, at = read_varint(view, at)
            content = _bytes(view, at, size)
            at += size
            yield key >> 3, content, at
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
            content = _bytes(view, at, size)
            at += size
            yield key >> 3, content, at
        else:
            raise ValueError(f"wire type {kind}")


def write_field(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return _write_varint(number << 3 | BYTES) + _write_varint(len(content)) + content


def _write_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _bytes(view: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(view):
        raise ValueError("a field is longer than the file")
    return view[at : at + size]
