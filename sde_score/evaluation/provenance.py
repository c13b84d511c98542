"""Digests of what computes a result, by which kept results are found again.

A result on disk holds for the code and the settings that made it, and for nothing else:
`provenance` digests an object with all its arguments, defaults included, and the code behind it;
`package_digest` the code of this package.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sde_score._core.modules import weights_digest

_PACKAGE = "sde_score"
# The rooms above measuring, and those that train what is measured: their code changes no figure.
_ELSEWHERE = {"cli", "report", "interop", "posterior", "training", "objectives"}
_DEEPEST = 12


@cache
def package_digest() -> str:
    """SHA-256 of the source of the rooms that a measurement runs, and of torch's version."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if place.parts[0] not in _ELSEWHERE:
            digest.update(f"{place.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def provenance(*things: object) -> str:
    """Digest of objects and of the code they run, in 16 digits: equal for equal results.

    Classes and functions of this package are its source; those of users are their compiled code and
    that of what they call, so that comments change nothing and an edited method does. Code of other
    libraries counts by its name.
    """
    digest = hashlib.sha256(package_digest().encode())
    for line in _described(things, {}, 0):
        digest.update(line.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def kinds_of(model: object) -> list[type]:
    """Classes of a model and of all its parts, by name."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else [model]
    return sorted({type(part) for part in parts}, key=lambda kind: kind.__qualname__)


def _described(thing: Any, seen: dict[int, Any], depth: int) -> Iterator[str]:
    """Lines that name all a thing is made of; what was met before is not entered again."""
    if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
        yield repr(thing)
    elif isinstance(thing, (Tensor, np.ndarray)):
        values = thing.detach().cpu().numpy() if isinstance(thing, Tensor) else thing
        kept = np.ascontiguousarray(values)
        yield f"{kept.dtype} {kept.shape} {hashlib.sha256(kept.tobytes()).hexdigest()}"
    elif id(thing) in seen or depth > _DEEPEST:
        yield f"again {type(thing).__qualname__}"
    else:
        seen[id(thing)] = thing  # kept, or a later thing may have the same id
        for part in _parts(thing):
            yield from _described(part, seen, depth + 1)


def _parts(thing: Any) -> Iterator[Any]:
    """What a thing is made of: its class or name first."""
    if isinstance(thing, Mapping):
        yield from ("mapping", *(part for item in thing.items() for part in item))
    elif isinstance(thing, (set, frozenset)):
        yield from ("set", *sorted(map(repr, thing)))
    elif isinstance(thing, (list, tuple)):
        yield from (type(thing).__name__, *thing)
    elif isinstance(thing, CodeType):
        yield from (thing.co_code, thing.co_names, thing.co_varnames, thing.co_consts)
    elif isinstance(thing, MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, (type, FunctionType)):
        yield f"{thing.__module__}.{thing.__qualname__}"
        if _is_own(thing):
            yield from _of_class(thing) if isinstance(thing, type) else _of_function(thing)
    else:
        yield type(thing)
        yield from _state(thing)


def _of_class(cls: type) -> Iterator[Any]:
    yield from cls.__bases__
    for name, value in sorted(vars(cls).items()):
        if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__"):
            yield name
            yield getattr(value, "__func__", getattr(value, "fget", getattr(value, "func", value)))


def _of_function(function: FunctionType) -> Iterator[Any]:
    yield from (function.__code__, function.__defaults__, function.__kwdefaults__)
    for cell in function.__closure__ or ():
        yield cell.cell_contents
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield name
            value = function.__globals__[name]
            yield value if not isinstance(value, type(sys)) else value.__name__


def _names(code: CodeType) -> set[str]:
    """Global names of a function and of those inside it."""
    inside = (_names(each) for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*inside)


def _state(thing: Any) -> Iterator[Any]:
    if isinstance(thing, nn.Module):
        yield from (repr(thing), weights_digest(thing), *kinds_of(thing))
    elif dataclasses.is_dataclass(thing):
        for each in dataclasses.fields(thing):
            yield from (each.name, getattr(thing, each.name, None))
    elif _is_own(type(thing)) or type(thing).__module__.startswith(_PACKAGE):
        yield from sorted(getattr(thing, "__dict__", {}).items())


def _is_own(thing: Any) -> bool:
    """Whether code is a user's: not of this package, Python's or another library's."""
    name = str(thing.__module__)
    if name.partition(".")[0] in (_PACKAGE, *sys.stdlib_module_names):
        return name == "__main__"
    place = getattr(sys.modules.get(name), "__file__", None)
    libraries = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib")}
    return place is None or not any(place.startswith(f"{folder}/") for folder in libraries)
