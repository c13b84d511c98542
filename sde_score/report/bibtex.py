"""BibTeX of what was used: the papers that docstrings name, and this software."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache, partial
from importlib.resources import files
from typing import Any

from sde_score._core import __version__
from sde_score._core.checks import refusal
from sde_score._core.registry import Registry, parse_spec
from sde_score.likelihood import LIKELIHOODS
from sde_score.models import PARAMETRIZATIONS
from sde_score.nn import BACKBONES
from sde_score.objectives import OBJECTIVES, TIME_SAMPLERS, WEIGHTINGS
from sde_score.samplers import GRIDS, METHODS, SAMPLERS
from sde_score.sdes import SDES
from sde_score.training import AUGMENTATIONS, COUPLINGS, OPTIMIZERS, SCHEDULES, Run
from sde_score.training.config import REGISTRIES, is_note

CITED: tuple[Registry[Any], ...] = (
    SDES,
    BACKBONES,
    PARAMETRIZATIONS,
    OBJECTIVES,
    TIME_SAMPLERS,
    WEIGHTINGS,
    COUPLINGS,
    AUGMENTATIONS,
    OPTIMIZERS,
    SCHEDULES,
    SAMPLERS,
    GRIDS,
    LIKELIHOODS,
)
"""Kinds of things whose names are cited."""

_SOFTWARE = f"""@software{{sde_score,
  title = {{{{sde_score: score matching and diffusion as one thing}}}},
  author = {{{{The sde_score authors}}}},
  version = {{{__version__}}},
  year = {{2026}}
}}"""
_URL = re.compile(r"https?://[^\s,;)>\"]+")
_CODE = "https://github.com/"  # named beside the paper


def citation(*things: Any) -> str:
    """BibTeX entries of the papers behind things, in their order, and of this software.

    For example, `print(sde_score.citation(run, "dpmpp-2m"))`.

    Args:
        things: runs, whose SDE, network, objective and the like are meant; objects such as an SDE
            or sampler; or text, a name such as `"heun"`, with or without arguments. None gives the
            software alone.

    Raises:
        ValueError: for text that names nothing.
        TypeError: for an object that is no part of this package.
    """
    found = [entry for thing in things for url in _urls(thing) if (entry := _entries().get(url))]
    return "\n\n".join(dict.fromkeys([_SOFTWARE, *found])) + "\n"


def _urls(thing: Any) -> Iterator[str]:
    """Addresses in the docstring of a thing, those of its parts included."""
    if isinstance(thing, Run):
        for name, registry in REGISTRIES.items():
            value = getattr(thing.config, name)
            if isinstance(value, str) and not is_note(value):
                yield from _urls_of_name(value, [registry])
        return
    if isinstance(thing, str):
        yield from _urls_of_name(thing, CITED)
        return
    if not type(thing).__module__.startswith(__name__.partition(".")[0]):
        raise refusal("things", thing, "a run, a name, or an object of this package")
    yield from addresses(type(thing))


def _urls_of_name(spec: str, registries: tuple[Registry[Any], ...] | list[Registry[Any]]) -> Any:
    name, arguments = parse_spec(spec)
    homes = [registry for registry in registries if name in registry]
    if not homes:
        raise ValueError(f"{spec!r} names nothing that is cited; see docs/reference.md for names")
    for registry in homes:
        if registry is SAMPLERS and name in METHODS:
            yield from _addresses_in(METHODS[name].paper)
        yield from addresses(registry[name])
    for value in arguments.values():
        if isinstance(value, str) and any(parse_spec(value)[0] in each for each in CITED):
            yield from _urls_of_name(value, CITED)


def addresses(constructor: Any) -> list[str]:
    """Addresses of the papers that the docstring of a class or function names."""
    bare = constructor.func if isinstance(constructor, partial) else constructor
    return _addresses_in(inspect.getdoc(bare) or "")


def _addresses_in(text: str) -> list[str]:
    return [url.rstrip(".") for url in _URL.findall(text) if not url.startswith(_CODE)]


@cache
def _entries() -> dict[str, str]:
    """Each entry of references.bib by its address."""
    text = files("sde_score.report").joinpath("references.bib").read_text(encoding="utf-8")
    entries = text.strip().split("\n\n")
    return {address: entry for entry in entries for address in _addresses_in(_plain(entry))}


def _plain(entry: str) -> str:
    return entry.replace("{", " ").replace("}", " ")
