"""Checks of arguments by their annotations: `count: int` takes integers, `denoise: bool` flags.

One line at the door of a class or function, `check_fields(self)` or `@checked`, refuses values of
the wrong kind and turns NumPy's scalars into Python's; ranges are left to `checks`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from sde_score._core.checks import is_finite, is_integer, is_number, plain, refusal, shown
from sde_score._core.errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R")


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass, in its `__post_init__`, by its annotation.

    Scalars of NumPy become Python's numbers, so that they print and compare as such; lists given
    for tuples become tuples.

    Raises:
        ArgumentError: naming the first field that holds a value of another kind.
    """
    cls: Any = type(instance)
    kinds = _kinds_of_fields(cls)
    for field in dataclasses.fields(instance):
        if field.init:
            value = getattr(instance, field.name)
            found = checked_value(field.name, value, kinds[field.name], field.default)
            if found is not value:
                object.__setattr__(instance, field.name, found)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function, or the `__init__` of a class, so that its arguments are checked.

    Raises:
        ArgumentError: from the call, naming the first argument of another kind than annotated.
    """
    signature = inspect.signature(function)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            if parameter.annotation is not parameter.empty and parameter.kind not in several:
                kind = _evaluated(parameter.annotation, function.__module__)
                bound.arguments[name] = checked_value(name, value, kind, parameter.default)
        return function(*bound.args, **bound.kwargs)

    return call


_INSIDE = (ArgumentError, ValueError, TypeError, RuntimeError, ArithmeticError)


def naming_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a constructor, so that what is refused inside of it names what was given.

    A part that refuses `channels=0` does not know that this was `base=0`.

    Raises:
        ArgumentError: from the call, for plain errors of Python and torch that name none of the
            options that were given.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except _INSIDE as error:
            given = {
                name: value
                for name, value in signature.bind(*args, **kwargs).arguments.items()
                if signature.parameters[name].default is not inspect.Parameter.empty
            }
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if not given or any(re.search(rf"\b{name}\b", said) for name in given):
                raise
            shown_ = ", ".join(f"{name}={shown(value, 60)}" for name, value in given.items())
            raise ArgumentError(f"{shown_}: {said}") from error

    return call


def checked_value(name: str, value: Any, kind: Any, default: Any = None) -> Any:
    """A value as its argument takes it.

    Args:
        name: of the argument.
        value: what was given.
        kind: the type it is annotated with; what is no type of the kinds below takes anything.
        default: of the argument; the default itself is always accepted, and infinities are where
            the default is one.

    Raises:
        ArgumentError: if it is of another kind.
    """
    if value is default:
        return value
    infinite = isinstance(default, float) and math.isinf(default)
    if not _accepts(kind, value, infinite):
        name, value, kind = _at_fault(name, value, kind)
        raise refusal(name, value, _described(kind) + _fix(kind, value))
    return _converted(kind, value)


def _at_fault(name: str, value: Any, kind: Any) -> tuple[str, Any, Any]:
    """The first wrong entry of a sequence, or the value itself."""
    for each in get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,):
        arguments = get_args(each)
        if _is_sequence_kind(each) and _is_sequence(value) and arguments[1:] in ((), (...,)):
            for index, item in enumerate(value):
                if not _accepts(arguments[0], item):
                    return f"{name}[{index}]", item, arguments[0]
    return name, value, kind


def _is_sequence_kind(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Sequence)


@functools.cache
def _kinds_of_fields(cls: type) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, annotation in inspect.get_annotations(base).items():
            found[name] = _evaluated(annotation, base.__module__)
    return found


@functools.cache
def _evaluated(annotation: Any, module: str) -> Any:
    """The type that an annotation spells; `Any` in place of a name only type checkers know."""
    if not isinstance(annotation, str):
        return annotation
    try:
        spelled = types.SimpleNamespace(__annotations__={"kind": annotation})
        return get_type_hints(spelled, vars(sys.modules[module]))["kind"]
    except Exception:
        parts = _split(annotation)
        if len(parts) == 1:
            return Any
        return Union[tuple(_evaluated(part, module) for part in parts)]  # noqa: UP007


def _split(annotation: str) -> list[str]:
    """The alternatives of `a | b[c | d]`, split outside of brackets."""
    parts, depth = [""], 0
    for letter in annotation:
        depth += (letter in "[(") - (letter in "])")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _accepts(kind: Any, value: Any, infinite: bool = False) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _accepts_one_of(arguments, value, infinite)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if _is_sequence_kind(kind) or kind is tuple:
        return _is_sequence(value) and _elements(origin, arguments, value)
    if origin is Callable or kind is Callable:
        return callable(value) and not inspect.isclass(value)
    return _accepts_class(origin or kind, value, infinite)


def _accepts_one_of(kinds: Collection[Any], value: Any, infinite: bool) -> bool:
    """Whether one of the alternatives takes a value.

    An alternative that is not known takes what is no scalar: text, numbers and flags are named in
    annotations, or are no part of them.
    """
    known = [kind for kind in kinds if kind is not Any and not (kind is str and Path in kinds)]
    if any(_accepts(kind, value, infinite) for kind in known):
        return True
    scalar = value is None or isinstance(plain(value), (bool, int, float, str, bytes))
    return Any in kinds and not scalar and not inspect.isclass(value)


def _accepts_class(kind: Any, value: Any, infinite: bool) -> bool:
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is bool:
        return isinstance(plain(value), bool)
    if kind is int:
        return is_integer(value)
    if kind is float:
        return is_finite(value) or (infinite and is_number(value) and plain(value) == math.inf)
    if kind is Path:
        return isinstance(value, (str, Path)) and str(value) != "" and "\0" not in str(value)
    if kind is Any or not isinstance(kind, type):
        return True
    if inspect.isclass(value) and kind not in (type, object):
        return False  # it has the methods that a protocol asks for, and yet is no object
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be asked for at run time
        return not isinstance(plain(value), (bool, int, float, str, bytes, type))


def _is_sequence(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0  # an array of no dimensions is a number
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _elements(origin: Any, arguments: tuple[Any, ...], value: Any) -> bool:
    if not arguments:
        return True
    if origin is tuple and arguments[-1] is not ...:
        each = zip(arguments, value, strict=False)
        return len(arguments) == len(value) and all(_accepts(kind, item) for kind, item in each)
    return all(_accepts(arguments[0], item) for item in value)


def _converted(kind: Any, value: Any) -> Any:
    """A value that is accepted, with Python's numbers in place of NumPy's and tuples of lists."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if isinstance(value, Tensor) and (Tensor in kinds or not {bool, int, float} & set(kinds)):
        return value
    tuples = [each for each in kinds if get_origin(each) is tuple or each is tuple]
    value = plain(value)
    if tuples and type(value) in (list, tuple, np.ndarray):
        return tuple(map(plain, value))
    return value


_NAMES = {
    bool: "True or False",
    int: "an integer",
    float: "a finite number",
    str: "text",
    Path: "a path",
    None: "None",
    types.NoneType: "None",
}


def _described(kind: Any) -> str:
    """The kind as a message names it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_described(each) for each in arguments))
    if origin is Literal:
        return f"text, one of: {', '.join(map(str, arguments))}"
    if kind in _NAMES:
        return _NAMES[kind]
    if origin is Callable or kind is Callable:
        return "a function"
    if _is_sequence_kind(kind):
        return f"a tuple of {_several(arguments)}"
    if kind is Any:
        return "an object of the kind that is documented"
    name = getattr(origin or kind, "__name__", str(kind))
    return f"an object of class {name}"


def _several(kinds: tuple[Any, ...]) -> str:
    """The kinds of the entries of a sequence, in the plural."""
    each = [kind for kind in kinds if kind is not ...]
    if len(set(each)) > 1:
        return "(" + ", ".join(map(_described, each)) + ")"
    known = {int: "integers", float: "finite numbers"}
    several = known.get(each[0], f"entries, each {_described(each[0])}")
    return several if ... in kinds or len(each) == 1 else f"{len(each)} {several}"


def _fix(kind: Any, value: Any) -> str:
    if isinstance(value, type):
        return f": {value.__name__} is a class, write {value.__name__}()"
    for each in get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,):
        if _is_sequence_kind(each) and is_number(value) and _accepts(get_args(each)[0], value):
            return f": write ({plain(value)},)"
    return ""
