"""Registries: objects of one kind by name, and the text that names them.

A *spec* is a name with optional keyword arguments, written as in Python: `vp`, `vp(beta_max=12)`.
Specs are what the command line takes and what a run's `config.yaml` stores. A `Registry` knows the
names of one kind of thing; `Registry.resolve` is where text becomes an object.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import isclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from sde_score._core.checks import shown
from sde_score._core.errors import ArgumentError, DataError
from sde_score._core.plugins import load_plugins

T = TypeVar("T")

# Python's own errors for values that a constructor cannot use.
_UNNAMED = (TypeError, AttributeError, ArithmeticError, LookupError, RecursionError)


def parse_spec(
    spec: str, names_of: Callable[[str], Sequence[str]] | None = None
) -> tuple[str, dict[str, Any]]:
    """Split `name(key=value, ...)` into its name and arguments; values are Python literals.

    Names may hold dashes. Nothing is executed: values are read by `ast.literal_eval`.

    Args:
        spec: the text.
        names_of: the arguments that may be given without their names, in order.

    Raises:
        ValueError: if the text is not of that form.
    """
    name, bracket, rest = spec.strip().partition("(")
    name = name.strip()
    if not bracket:
        return name, {}
    names = names_of(name) if names_of else ()
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("not a call")
        arguments = {k: ast.literal_eval(v) for k, v in zip(names, call.args, strict=False)}
        arguments |= {str(k.arg): ast.literal_eval(k.value) for k in call.keywords if k.arg}
        if len(arguments) != len(call.args) + len(call.keywords):
            raise ValueError("** is not accepted, nor a value without a name that it belongs to")
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
    """A dictionary from names to constructors of one kind of thing.

    Names are found whatever their case, dashes, underscores and spaces, and `++` is `pp`: `VP`,
    `DPM++ 2M` and `dpmpp_2m` are all found.

    A room whose entries refer to one another declares its registry empty, beside the base class,
    and fills it in its `__init__`.

    Args:
        kind: the noun in messages, such as "sampler".
        entries: name to class or function.
        base: class of the things, which `resolve` takes as they are.
        aliases: other names to the names that are listed.
        positional: specs may give arguments by their order, as `cfg(3)`.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, Callable[..., T]] = MappingProxyType({}),
        base: type[Any] = Callable,  # type: ignore[assignment]
        aliases: Mapping[str, str] = MappingProxyType({}),
        positional: bool = False,
    ) -> None:
        self.kind = kind
        self.positional = positional
        self.base = base
        self.aliases: dict[str, str] = {}
        self._entries: dict[str, Callable[..., T]] = {}
        self._listed: dict[str, str] = {}
        self._distant: dict[str, tuple[str, str]] = {}
        self._shared: list[tuple[Registry[Any], tuple[type[Any], ...]]] = []
        self.fill(entries, aliases)

    def fill(
        self,
        entries: Mapping[str, Callable[..., T]],
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Add the entries of the room itself, in the order in which a reader should meet them."""
        for name, constructor in entries.items():
            self.register(name, constructor)
        for alias, name in aliases.items():
            self.aliases[alias] = name
            self._listed[_canonical(alias)] = name

    def share(self, other: Registry[Any], *kinds: type[Any]) -> None:
        """List in another registry as well the classes of these kinds that are registered here
        from now on."""
        self._shared.append((other, kinds))

    def find_in(self, module: str, **names: str) -> None:
        """Find names in a module that is imported when one is asked for; they are not listed.

        Args:
            module: of a room above, or one that needs an extra.
            names: each with the constructor's name in the module.
        """
        for name, attribute in names.items():
            self._distant[name] = (module, attribute)
            self._listed[_canonical(name)] = name

    def __getitem__(self, name: str) -> Callable[..., T]:
        name = self.listed(name)
        if name in self._entries:
            return self._entries[name]
        module, attribute = self._distant[name]
        return cast("Callable[..., T]", getattr(importlib.import_module(module), attribute))

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(list(self._entries))

    def __len__(self) -> int:
        load_plugins()
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if _canonical(name) not in self._listed:
            load_plugins()
        return _canonical(name) in self._listed

    def listed(self, name: str) -> str:
        """The name as it is listed, for any spelling or alias of it.

        Raises:
            ValueError: for an unknown name, with what is accepted.
        """
        if name not in self:
            near = self._misspelled(name)
            guess = f"did you mean {near!r}? " if near else ""
            if "file" in self._entries and name.endswith(".json"):
                guess = f'write "file(path={name!r})" for a file; '
            raise ValueError(
                f"unknown {self.kind} {name!r}; {guess}accepted: {', '.join(self._entries)}"
            )
        return self._listed[_canonical(name)]

    def _misspelled(self, name: str) -> str | None:
        """The one name that `name` is a misspelling of: digits differ between methods, not by
        mistake."""
        wanted = _canonical(name)
        alike = {key for key in self._listed if _digits(key) == _digits(wanted)}
        near = difflib.get_close_matches(wanted, alike, n=3, cutoff=0.75)
        swapped = [key for key in near if sorted(key) == sorted(wanted)]
        return self._listed[(swapped or near)[0]] if near else None

    def names(self) -> list[str]:
        """All names, in the order in which a reader should meet them."""
        return list(self)

    def register(self, name: str, constructor: Callable[..., T]) -> Callable[..., T]:
        """Add a thing of your own; from then on it is listed, made and stored like all others.

        Args:
            name: letters, digits, dashes and underscores, beginning with a letter; not taken yet.
            constructor: a class or function whose keyword arguments are the options of the spec.

        Returns:
            `constructor`.

        Raises:
            ValueError: for a name that is taken or that no spec can have.
            TypeError: if `constructor` cannot be called.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w-]*", name):
            raise ValueError(
                f"name={name!r} must be letters, digits, dashes and underscores, such as 'mine'"
            )
        if not callable(constructor):
            raise TypeError(
                f"{self.kind} {name!r} must be a class or a function that makes one, "
                f"got {constructor!r}"
            )
        taken = self._listed.get(_canonical(name))
        if taken is not None and self[taken] is not constructor:
            raise ValueError(f"the {self.kind} {name!r} exists already: choose another name")
        self._entries[name] = constructor
        self._listed[_canonical(name)] = name
        for other, kinds in self._shared:
            if isclass(constructor) and issubclass(constructor, kinds):
                other.register(name, constructor)
        return constructor

    def create(self, spec: str, **arguments: Any) -> T:
        """Build the thing that `spec` names; keyword arguments override those in the spec.

        Raises:
            ValueError: for an unknown name, or arguments that the thing lacks, does not take or
                does not accept.
        """
        if not isinstance(spec, str):
            raise ArgumentError(
                f"{self.kind} {shown(spec)} must be text, such as {self._example!r}"
            )
        given, from_spec = parse_spec(spec, self._parameters if self.positional else None)
        name, constructor = self.listed(given), self[given]
        merged = {**from_spec, **arguments}
        owner = f"{self.kind} {name!r}"
        parameters = inspect.signature(constructor).parameters
        refuse_unknown(owner, merged, parameters)
        missing = [k for k, p in parameters.items() if _is_required(p) and k not in merged]
        if missing:
            example = format_spec(name, dict.fromkeys(missing, ...)).replace("Ellipsis", "...")
            raise ValueError(f"{owner} needs {', '.join(missing)}: write {example}")
        try:
            return constructor(**merged)
        except ArgumentError:
            raise
        except _UNNAMED as error:
            raise ArgumentError(f"{owner} does not accept {shown(merged)}: {error}") from error

    def resolve(self, value: str | T, name: str = "") -> T:
        """An object of this kind: as it is, or built from the text that names it.

        Args:
            value: the text or the object.
            name: of the caller's argument, for messages.

        Raises:
            TypeError: if `value` is neither.
            ValueError: as for `create`.
        """
        if isinstance(value, str):
            try:
                return self.create(value)
            except ValueError as error:
                if (
                    isinstance(error, DataError)
                    or not name
                    or re.search(rf"\b{name}\b", str(error))
                ):
                    raise
                raise ArgumentError(f"{name}={value[:80]!r}: {error}") from error
        thing: Any = value
        if isinstance(thing, self.base) and not isclass(thing):
            return cast(T, thing)
        hint = f": {thing.__name__} is a class, write {thing.__name__}()" if isclass(thing) else ""
        raise ArgumentError(
            f"{name and name + '='}{shown(value)} is no {self.kind}: accepted are text such as "
            f"{self._example!r} and an object of class "
            f"{getattr(self.base, '__name__', self.base)}{hint}"
        )

    def text_of(self, thing: T) -> str | None:
        """The spec of which `create` makes an equal thing, or None where no text can."""
        text = repr(thing)
        arguments = "".join(text.partition("(")[1:])
        names = [name for name, entry in self._entries.items() if entry is type(thing)]
        for spec in (*(name + arguments for name in names), text):
            try:
                if self.create(spec) == thing:
                    return spec
            except (ValueError, TypeError):
                continue
        return None

    def _parameters(self, name: str) -> list[str]:
        return list(inspect.signature(self[name]).parameters)

    @property
    def _example(self) -> str:
        return next(iter(self._entries), "name")


def _canonical(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower().replace("++", "pp"))


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def _is_required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return named and parameter.default is parameter.empty


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
