"""Networks inside of functions: what a closure, a partial or a bound method computes with."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

_DEPTH = 4  # from the function to the network
_LONGEST = 1000  # longer sequences are data
_MOST = 10_000  # objects that are looked at


def networks_in(function: Callable[..., Any]) -> list[nn.Module | nn.Parameter]:
    """The modules and parameters that a function computes with; the function, if it is a module.

    They are looked for in its closure, in the globals that it names, its defaults, the arguments of
    a `functools.partial`, the owner of a bound method, the attributes of a callable object, and in
    functions, lists and dictionaries among these. A part of a module that is found is not listed.
    """
    found: list[nn.Module | nn.Parameter] = []
    level, seen = [function], {id(function): function}
    for _ in range(_DEPTH + 1):
        found += [value for value in level if isinstance(value, (nn.Module, nn.Parameter))]
        below: list[Any] = []
        for value in level:
            for part in _parts(value):
                if id(part) not in seen and len(seen) < _MOST:
                    seen[id(part)] = part
                    below.append(part)
        level = below
    modules = [part for part in found if isinstance(part, nn.Module)]
    inner = {
        id(part)
        for module in modules
        for part in (*module.modules(), *module.parameters())
        if part is not module
    }
    return [part for part in found if id(part) not in inner]


def _parts(value: Any) -> Iterator[Any]:
    """What a value that is no network consists of."""
    if isinstance(value, (nn.Module, Tensor, ModuleType, type)):
        return
    if isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif inspect.ismethod(value):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, (Mapping, Sequence, set)):
        if not isinstance(value, (str, bytes, range)) and len(value) <= _LONGEST:
            yield from value.values() if isinstance(value, Mapping) else value
    elif hasattr(value, "__dict__"):
        yield from list(vars(value).values())
        yield from (part for part in (type(value).__call__,) if isinstance(part, FunctionType))


def _parts_of_function(function: FunctionType) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    known = {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    if not function.__module__ or not function.__module__.startswith("torch."):
        known = {**function.__globals__, **known}
    for code in _codes(function.__code__):
        yield from _named(code, known)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # a variable that has no value yet
        return False
    return True


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions within."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _named(code: CodeType, known: Mapping[str, Any]) -> Iterator[Any]:
    """The values that code reads from outside: `a`, or of `a.b.c` the innermost that is there."""
    value, reading = None, False
    for step in dis.get_instructions(code):
        attribute = step.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if reading and attribute and step.argval in getattr(value, "__dict__", ()):
            if not isinstance(value, (nn.Module, ModuleType)):
                value = vars(value)[step.argval]
            continue
        if reading:
            yield value
        reading = step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF")
        reading = reading and step.argval in known
        value = known[step.argval] if reading else None
