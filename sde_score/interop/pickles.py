"""Pickles of other projects, read without importing or running anything that they name.

Classes and functions of a short list are replaced by records that keep what they were given; all
others are refused by name. The records are made anew for every file, so that no file can change
what the next one meets.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import is_integer
from sde_score._core.memory import require_memory
from sde_score.training.errors import CheckpointError

_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MOST_SHOWN = 8
_DEEPEST = 100


UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors of pickle and torch about bytes that are not what they claim to be."""


@dataclass(frozen=True)
class Recorded:
    """An object of a class that was not imported.

    Args:
        name: of the class.
        state: the attributes of the object.
    """

    name: str
    state: Mapping[str, Any] = field(repr=False)

    def arguments(self, names: tuple[str, ...] = ()) -> dict[str, Any]:
        """What the object was constructed with, where the class keeps it as EDM's do.

        Args:
            names: of the arguments that may be given by their place.

        Raises:
            CheckpointError: if it is not kept, or of another form.
        """
        by_place, by_name = self.state.get("_init_args", ()), self.state.get("_init_kwargs")
        if not isinstance(by_name, Mapping) or not isinstance(by_place, (list, tuple)):
            raise CheckpointError(f"{self.name} does not keep what it was constructed with")
        if len(by_place) > len(names):
            raise CheckpointError(f"{self.name} was constructed with {len(by_place)} values")
        return dict(zip(names, by_place, strict=False)) | dict(by_name)

    def tensors(self, prefix: str = "", depth: int = 0) -> dict[str, Tensor]:
        """Weights and buffers of a module, by name.

        Args:
            prefix: in front of the names.
            depth: number of modules around it.

        Raises:
            CheckpointError: if it is no module.
        """
        found: dict[str, Tensor] = {}
        for kind in ("_parameters", "_buffers", "_modules"):
            entries = self.state.get(kind)
            if not isinstance(entries, Mapping) or depth > _DEEPEST:
                raise CheckpointError(f"{self.name} in the pickle is not a module of torch")
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    found[f"{prefix}{name}"] = value
                elif isinstance(value, Recorded):
                    found.update(value.tensors(f"{prefix}{name}.", depth + 1))
                elif value is not None:
                    raise CheckpointError(f"{prefix}{name} in the pickle is no tensor")
        return found


def is_pickle(path: Path) -> bool:
    """Whether a file is a bare pickle, and not one of `torch.save`."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_LEGACY_TORCH))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if start.startswith(b"PK") or start == _LEGACY_TORCH:
        return False
    return start.startswith(b"\x80") or path.suffix == ".pkl"


def read_pickle(path: Path) -> Any:
    """The contents of a pickle: plain containers, numbers, tensors and `Recorded` objects.

    Raises:
        CheckpointError: for a file that is damaged, or asks for anything else; with its names.
    """
    require_memory(3 * path.stat().st_size, f"reading {path}")
    with path.open("rb") as file:
        reader = _Reader(file)
        try:
            _scan(file)
            content = reader.load()
            found = None if reader.refused else _Resolver()(content)
        except UNREADABLE as error:
            if not reader.refused:
                raise CheckpointError(
                    f"{path} is damaged or no checkpoint; nothing of it was run: {error}"
                ) from error
    if reader.refused:
        names = sorted(reader.refused)
        more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
        raise CheckpointError(
            f"{path} asks for {', '.join(names[:_MOST_SHOWN])}{more}, which no checkpoint that is "
            "known here needs; nothing of it was imported or run"
        )
    return found


def _scan(file: io.BufferedReader) -> None:
    """Refuse a pickle that counts what it remembers in numbers far beyond its own length.

    Python's reader has a table up to that number, so that ten bytes could ask for all memory.
    """
    for count, (opcode, number, _) in enumerate(pickletools.genops(file)):
        if opcode.name.endswith("PUT") and (number is None or number > count):
            raise ValueError(f"it remembers an object under the number {number}")
    file.seek(0)


class _Reader(pickle.Unpickler):
    """A reader of pickles that imports nothing and notes what it refuses."""

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__(file)
        self.refused: set[str] = set()
        self.allowed = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        self.refused.add(f"{module}.{name}")
        return _inert()

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of the file")


class _Record:
    """What an object was made of: `arguments` of its constructor, and the `state` set after."""

    kind = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _Record:
        # Objects that pickles make anew meet no constructor.
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _inert() -> Any:
    """A new class that takes anything and does nothing, in the place of a refused one."""

    def ignore(self: Any, *arguments: Any, **options: Any) -> None:
        return None

    names = ("__init__", "__setstate__", "__setitem__", "append", "extend", "add", "__call__")
    return type("Refused", (), dict.fromkeys(names, ignore))


def _stand_ins() -> dict[tuple[str, str], Any]:
    """What is put in the place of every class and function that a file may name."""

    def record(kind: str) -> Any:
        return type("Record", (_Record,), {"kind": kind})

    def parameter(data: Any, requires_grad: Any = None, hooks: Any = None) -> Any:
        return data

    def encode(text: str, encoding: str) -> bytes:
        return text.encode("latin1")

    array = {"scalar": record("scalar"), "_reconstruct": record("array")}
    return {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): record("persistent"),
        ("dnnlib.util", "EasyDict"): type("EasyDict", (dict,), {}),
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "set"): set,
        ("__builtin__", "set"): set,
        ("_codecs", "encode"): encode,
        ("torch._utils", "_rebuild_tensor_v2"): record("tensor"),
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch.storage", "_load_from_bytes"): record("storage"),
        ("torch.nn.modules.container", "ModuleDict"): record("ModuleDict"),
        ("torch.nn.modules.container", "ModuleList"): record("ModuleList"),
        ("torch", "Size"): tuple,
        ("torch", "device"): record("device"),
        **{("torch", str(dtype).split(".")[1]): dtype for dtype in _DTYPES},
        **{(f"numpy.{core}.multiarray", key): array[key] for core in _CORES for key in array},
        ("numpy", "dtype"): record("dtype"),
        ("numpy", "ndarray"): record("ndarray"),
    }


_CORES = ("core", "_core")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


class _Resolver:
    """Records to what they stand for; what occurs twice is the same object both times."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.kept: list[Any] = []

    def __call__(self, value: Any) -> Any:
        if id(value) in self.done:
            return self.done[id(value)]
        self.kept.append(value)  # or its id could be that of another
        if isinstance(value, _Record):
            self.done[id(value)] = None  # of itself
            self.done[id(value)] = self._record(value)
        elif isinstance(value, dict):
            self.done[id(value)] = filled = {}
            for key, entry in value.items():
                filled[key] = self(entry)
        elif isinstance(value, list):
            entries: list[Any] = []
            self.done[id(value)] = entries
            entries.extend(self(entry) for entry in value)
        elif isinstance(value, tuple):
            self.done[id(value)] = tuple(self(entry) for entry in value)
        else:
            self.done[id(value)] = value
        return self.done[id(value)]

    def _record(self, value: _Record) -> Any:
        given, state = self(value.arguments), self(value.state)
        if value.kind == "persistent":
            (meta,) = given
            return Recorded(_text(meta["class_name"]), _mapping(meta["state"]))
        if value.kind in ("ModuleDict", "ModuleList"):
            return Recorded(value.kind, _mapping(state))
        if value.kind == "storage":
            return _storage(*given)
        if value.kind == "tensor":
            return _tensor(*given[:4])
        if value.kind == "dtype":
            return _dtype(_text(given[0]), state)
        if value.kind == "scalar":
            return np.frombuffer(given[1], given[0], 1)[0].item()
        if value.kind == "array":
            _, shape, dtype, fortran, raw = state
            return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C").copy()
        return value.kind


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a name is {type(value).__name__}")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"the state of an object is {type(value).__name__}")
    return value


def _storage(raw: Any) -> Any:
    """A storage of torch from the bytes that `torch.save` wrote of it."""
    if not isinstance(raw, bytes) or raw.startswith(b"PK"):
        raise TypeError("a storage is not in the form in which torch pickles it")
    storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise TypeError(f"a storage is {type(storage).__name__}")
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """A tensor on a storage, which holds each of its numbers once."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise TypeError("a tensor has no storage")
    count = int(storage._size())  # type: ignore[no-untyped-call]
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(is_integer(n) and n >= 0 for n in numbers):
        raise ValueError(f"a tensor has size {size} and stride {stride}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and (last >= count or math.prod(size) > count):
        raise ValueError(f"a tensor of {size} is on a storage of {count} numbers")
    empty = torch.empty(0, dtype=storage.dtype)
    return empty.set_(storage._untyped_storage, offset, tuple(size), tuple(stride))


def _dtype(name: str, state: Any) -> np.dtype[Any]:
    if not re.fullmatch(r"[biuf]\d", name):
        raise ValueError(f"an array has the type {name!r}")
    order = str(state[1]) if state else "="
    if order not in "<>=|":
        raise ValueError(f"an array has the order of bytes {order!r}")
    return np.dtype(order + name)
