"""Files of tensors, `.safetensors`, that several processes write and read together.

The format is a header of JSON with the place of each tensor, then the numbers. Rows of a tensor are
neighbors in the file, so that each process writes the rows that it holds to their place, and reads
any rows: the file is the same whatever the number of processes, and no process holds a whole
tensor. torch.distributed.checkpoint would keep a folder of its own layout beside it, whose index is
a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
_ALIGNED = 8


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a tensor of which other processes hold others.

    Args:
        rows: shape `(count, *rest)`, count may be 0.
        shape: of the whole tensor, `(all, *rest)`.
        start: number of the first row.
    """

    rows: Tensor
    shape: tuple[int, ...]
    start: int

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensor."""
        return self.rows.dtype


Named = Mapping[str, Tensor | Part]
"""Tensors by name, or the parts of them that a process holds."""


def begin_file(path: Path, tensors: Named, metadata: Mapping[str, str] | None = None) -> None:
    """Make the file with its header, and room for the numbers.

    Args:
        path: of the file, which is replaced.
        tensors: of any process.
        metadata: of the file.

    Raises:
        OSError: if it cannot be written.
        TypeError: for a dtype that the format does not have.
    """
    header, _, size = _layout(tensors, metadata)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)


def fill_file(
    path: Path, tensors: Named, *, first: bool, metadata: Mapping[str, str] | None = None
) -> None:
    """Write numbers to their places in a file that was begun.

    Args:
        path: of the file.
        tensors: those of this process.
        first: whether this process writes whole tensors, which all processes hold, as well.
        metadata: as it was begun.

    Raises:
        OSError: if it cannot be written.
    """
    _, places, _ = _layout(tensors, metadata)
    with path.open("r+b") as file:
        for name in sorted(tensors, key=lambda name: places[name]):
            value = tensors[name]
            rows = value.rows if isinstance(value, Part) else value
            if rows.numel() and (first or isinstance(value, Part)):
                skipped = value.start * rows[0].nbytes if isinstance(value, Part) else 0
                file.seek(places[name] + skipped)
                # Letting other threads of the process go on meanwhile.
                file.write(_bytes(rows))


def change_metadata(path: Path, tensors: Named, metadata: Mapping[str, str]) -> None:
    """Give a file other metadata of the same length."""
    with path.open("r+b") as file:
        file.write(_layout(tensors, metadata)[0])


def read_file(path: Path, expected: Named) -> dict[str, Tensor | Part]:
    """All tensors of a file, of those that are expected in part the rows that are expected.

    Raises:
        Exception: of any kind, for a file that is damaged.
    """
    from safetensors import safe_open

    found: dict[str, Tensor | Part] = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            want = expected.get(name)
            if not isinstance(want, Part):
                found[name] = file.get_tensor(name)
                continue
            place = file.get_slice(name)
            shape, count = tuple(place.get_shape()), len(want.rows)
            rows = torch.empty_like(want.rows, device="cpu")
            if shape == want.shape and count:
                rows = place[want.start : want.start + count]
            found[name] = Part(rows, shape, want.start)
    return found


def _layout(
    tensors: Named, metadata: Mapping[str, str] | None
) -> tuple[bytes, dict[str, int], int]:
    """The header, the place of each tensor in the file, and the size of the file."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    starts, end = {}, 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        value = tensors[name]
        if value.dtype not in _DTYPES:
            raise TypeError(f"{name} is {value.dtype}, which files of tensors do not hold")
        starts[name], shape = end, tuple(value.shape)
        end += torch.Size(shape).numel() * value.dtype.itemsize
        entries[name] = {
            "dtype": _DTYPES[value.dtype],
            "shape": shape,
            "data_offsets": (starts[name], end),
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + at for name, at in starts.items()}, len(header) + end


def _bytes(rows: Tensor) -> memoryview:
    flat = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data
