"""Records: dataclasses as plain values of JSON, and back, by the annotations of their fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor
from typing_extensions import Self

from sde_score._core.arguments import checked_value
from sde_score._core.checks import refusal
from sde_score._core.registry import refuse_unknown


class Record:
    """A dataclass whose fields are plain values, or records and tuples and mappings of them."""

    def record(self) -> dict[str, Any]:
        """The fields as plain values, for JSON: NaN becomes None, tensors are left out."""
        found: dict[str, Any] = plain_record(self)
        return found

    @classmethod
    def from_record(cls, values: Any) -> Self:
        """Inverse of `record`; fields with a default may be missing.

        Raises:
            TypeError, ValueError: for anything but the values of such a record.
        """
        if not isinstance(values, Mapping):
            raise refusal(cls.__name__, values, "a mapping of field names to values")
        taken: Any = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
        refuse_unknown(cls.__name__, values, taken)
        found, kinds = {}, get_type_hints(cls)
        for name, field in taken.items():
            nan = isinstance(field.default, float) and math.isnan(field.default)
            if name in values and not (nan and values[name] is None):
                found[name] = decoded(name, kinds[name], values[name])
            elif field.default is field.default_factory is MISSING:
                raise ValueError(f"{cls.__name__} lacks {name}")
        return cls(**found)


def plain_record(value: Any) -> Any:
    """Records, tuples and mappings as plain values, for JSON."""
    if is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: plain_record(item) for name, item in pairs if not isinstance(item, Tensor)}
    if isinstance(value, Mapping):
        return {name: plain_record(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_record(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def decoded(name: str, kind: Any, value: Any) -> Any:
    """A value of JSON as a kind, such as `tuple[int, ...]`, that a record has as a field.

    Args:
        name: of the field.
        kind: its type.
        value: what `plain_record` made of it.

    Raises:
        TypeError, ValueError: for anything but the value of such a kind.
    """
    origin, inner = get_origin(kind), [each for each in get_args(kind) if each is not NoneType]
    if origin in (Union, UnionType) and value is not None and len(inner) == 1:
        return decoded(name, inner[0], value)
    several = origin in (Union, UnionType) and len(inner) > 1
    if several and any(get_origin(each) in (tuple, Mapping) for each in inner):
        for each in inner:
            try:
                return decoded(name, each, value)
            except (TypeError, ValueError):
                continue
    if isinstance(kind, type) and issubclass(kind, Record):
        return kind.from_record(value)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(decoded(f"{name}[{i}]", inner[0], item) for i, item in enumerate(value))
    if origin in (Mapping, dict) and isinstance(value, Mapping):
        return {key: decoded(f"{name}[{key!r}]", inner[1], item) for key, item in value.items()}
    found = checked_value(name, value, kind, MISSING)
    return float(found) if kind is float else found
