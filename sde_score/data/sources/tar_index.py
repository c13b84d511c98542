"""The index of a tar archive: where its files are, by its headers alone.

Nothing is unpacked and no name is used as a path: what names say only tells which members belong
together. Links, devices and folders are passed over.

Reference: POSIX.1-2017, pax interchange format,
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from sde_score._core.errors import DataError

BLOCK = 512
"""Bytes of a header, and of what files are padded to."""

_FIELDS = struct.Struct("100s24x12s12x8s1s100x8s80x155s12x")  # name, size, sum, kind, magic, prefix
_FILE, _OLD_FILE, _CONTIGUOUS = b"0", b"\0", b"7"
_PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_SPARSE = b"S"
_BEYOND = 1 << 60  # bytes of no file
_LONGEST = 1 << 20  # bytes of a pax header or a long name
_TAIL = 1 << 20  # bytes that may pad an archive


class Member(NamedTuple):
    """A file of an archive: its name, and where its content is."""

    name: str
    offset: int
    size: int


def members(handle: int, length: int) -> Iterator[Member]:
    """The files of an archive in their order.

    Args:
        handle: open file.
        length: of it, in bytes.

    Raises:
        DataError: for what is no tar archive, is compressed or damaged; for a truncated one after
            its files, of which the last may go beyond its end.
    """
    place, long_name, pax = 0, b"", {}
    for _ in range(length // BLOCK + 1):
        if place >= length:
            break
        header = os.pread(handle, BLOCK, place)
        if header == bytes(BLOCK):
            _require_end(length - place)
            return
        kind, name, size = _parsed(header, place)
        start = place + BLOCK
        if kind in (_PAX, _LONG_NAME):
            text = _text(handle, start, size, length)
            if kind == _PAX:
                pax = _records(text, place)
            else:
                long_name = text.rstrip(b"\0")
        elif kind not in (_PAX_FOR_ALL, _LONG_LINK):
            size = _number(pax[b"size"], place, 10) if b"size" in pax else size
            if kind in (_FILE, _OLD_FILE, _CONTIGUOUS):
                if b"GNU.sparse.major" in pax or b"GNU.sparse.size" in pax:
                    raise DataError(f"holds a sparse file at byte {place}: pack it without -S")
                yield Member(os.fsdecode(pax.get(b"path", long_name or name)), start, size)
            long_name, pax = b"", {}
        place = start + -(-size // BLOCK) * BLOCK
    raise DataError(f"is truncated: at byte {length}, where it ends, is no end of an archive")


def _parsed(header: bytes, place: int) -> tuple[bytes, bytes, int]:
    """Kind, name and size of a header."""
    if header[:2] == b"\x1f\x8b" or header[:4] in (b"\x28\xb5\x2f\xfd", b"\xfd7zX"):
        raise DataError("is compressed, so that its files cannot be read one by one: unpack it")
    if len(header) < BLOCK:
        raise DataError(f"is truncated: it ends within the header at byte {place}")
    name, size, told, kind, magic, prefix = _FIELDS.unpack(header)
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if total != _number(told, place):
        what = "is no tar archive" if place == 0 else "is damaged"
        raise DataError(f"{what}: the header at byte {place} does not add up to its own sum")
    if kind == _SPARSE:
        raise DataError(f"holds a sparse file at byte {place}: pack it without -S")
    name = name.partition(b"\0")[0]
    prefix = prefix.partition(b"\0")[0] if magic.startswith(b"ustar\0") else b""
    return kind, prefix + b"/" + name if prefix else name, _number(size, place)


def _number(field: bytes, place: int, base: int = 8) -> int:
    """A number as digits, or after the byte 0x80 as the bytes of an integer."""
    try:
        digits = field.strip(b" \0") or b"0"
        value = int.from_bytes(field[1:], "big") if field[:1] == b"\x80" else int(digits, base)
    except ValueError:
        value = -1
    if not 0 <= value < _BEYOND:
        raise DataError(f"is damaged: the header at byte {place} holds {field!r} as a number")
    return value


def _text(handle: int, start: int, size: int, length: int) -> bytes:
    if size > min(_LONGEST, length - start):
        raise DataError(f"is damaged: the header at byte {start} takes {size} bytes")
    return os.pread(handle, size, start)


def _records(text: bytes, place: int) -> dict[bytes, bytes]:
    """The records of a pax header: `length key=value` and a line break each."""
    found, at = {}, 0
    for _ in range(len(text)):
        if at >= len(text):
            break
        digits, _, _ = text[at : at + 20].partition(b" ")
        record = text[at : at + int(digits)] if digits.isdigit() else b""
        key, sign, value = record[len(digits) + 1 : -1].partition(b"=")
        if not sign or len(record) != int(digits):
            raise DataError(f"is damaged: the header at byte {place} is no pax header")
        found[key] = value
        at += len(record)
    return found


def _require_end(left: int) -> None:
    """Refuse what goes on for long behind the end of an archive."""
    if left > _TAIL:
        raise DataError(
            f"goes on for {left} bytes behind its end: pack archives that were joined one by one"
        )
