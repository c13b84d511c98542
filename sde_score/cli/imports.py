"""`--import MODULE`: the user's modules, which register samplers, networks, distances and more."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from itertools import pairwise

_FLAG = "--import"


def import_modules(words: Sequence[str]) -> None:
    """Import each module named by `--import MODULE` or `--import=MODULE`, in order.

    A module is looked for in the working directory and among installed packages. Only the command
    line names modules: a configuration or a checkpoint imports nothing.

    Args:
        words: of the command line.

    Raises:
        ValueError: for a path in place of a name.
        ImportError: if there is no such module.
    """
    separate = [name for flag, name in pairwise(words) if flag == _FLAG]
    joined = [word.partition("=")[2] for word in words if word.startswith(f"{_FLAG}=")]
    for name in separate + joined:
        _import(name)


def _import(name: str) -> None:
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(
            f"import={name!r} must be the name of a module, such as my_samplers for my_samplers.py "
            "in the working directory"
        )
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.import_module(name)
