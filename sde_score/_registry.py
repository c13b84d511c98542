"""Names for things: a registry is a dictionary one can read, plus errors that say what is accepted.

A *spec* is a name with optional keyword arguments, written as in Python: `vp`, `vp(beta_max=12)`.
Specs are what the command line takes and what a run's `config.yaml` stores.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Split `name(key=value, ...)` into its name and arguments; values are Python literals.

    Names may hold dashes. Nothing is executed: values are read by `ast.literal_eval`.

    Raises:
        ValueError: if the text is not of that form.
    """
    name, bracket, rest = spec.strip().partition("(")
    name = name.strip()
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError("only keyword arguments are accepted")
        arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords if k.arg}
        if len(arguments) != len(call.keywords):
            raise ValueError("** is not accepted")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"cannot read {spec[:80]!r}: write name or name(key=value, ...), "
            "for example vp(beta_max=12)"
        ) from error
    return name, arguments


def format_spec(name: str, arguments: Mapping[str, Any]) -> str:
    """Inverse of `parse_spec`: `name` or `name(key=value, ...)`."""
    inside = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{name}({inside})" if inside else name


class Registry(Mapping[str, Callable[..., T]], Generic[T]):
    """A read-only dictionary from names to constructors of one kind of thing.

    A dash and an underscore in a name are the same.

    Args:
        kind: the word for the thing in messages, such as "sampler".
        entries: name to class or function.
    """

    def __init__(self, kind: str, entries: Mapping[str, Callable[..., T]]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Callable[..., T]:
        try:
            return self._entries[self._spelled(name)]
        except KeyError:
            near = difflib.get_close_matches(name, self._entries, n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"unknown {self.kind} {name!r}; {guess}accepted: {', '.join(self._entries)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._spelled(name) in self._entries

    def _spelled(self, name: str) -> str:
        """The name as it is listed."""
        spellings = (name, name.replace("_", "-"), name.replace("-", "_"))
        return next((s for s in spellings if s in self._entries), name)

    def names(self) -> list[str]:
        """All names, in the order in which a reader should meet them."""
        return list(self._entries)

    def create(self, spec: str, **arguments: Any) -> T:
        """Build the thing that `spec` names; keyword arguments override those in the spec.

        Raises:
            ValueError: for an unknown name, or an argument that the thing does not take.
        """
        name, from_spec = parse_spec(spec)
        constructor = self[name]
        merged = {**from_spec, **arguments}
        refuse_unknown(f"{self.kind} {name!r}", merged, inspect.signature(constructor).parameters)
        return constructor(**merged)


def refuse_unknown(owner: str, given: Iterable[str], accepted: Iterable[str]) -> None:
    """Refuse argument names that `owner` does not take.

    Raises:
        ValueError: listing what is accepted.
    """
    accepted = list(accepted)
    unknown = [name for name in given if name not in accepted]
    if unknown:
        raise ValueError(
            f"{owner} does not take {', '.join(unknown)}; "
            f"accepted: {', '.join(accepted) or 'no arguments'}"
        )
