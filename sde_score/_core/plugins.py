"""Installed packages that add to the registries, found by the entry-point group `sde_score`.

A package declares a module that registers its things when it is imported:

    [project.entry-points.sde_score]
    my-samplers = "my_package.samplers"
"""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points

GROUP = "sde_score"
READERS = "sde_score.interop"
"""The room that reads checkpoints of any kind and runs schedulers of diffusers. It stands above
training and samplers, which ask for it by this name when they are given what they do not know."""
_loaded = False


def load_plugins() -> None:
    """Import the modules of installed packages, once, before a registry lists or refuses a name.

    A package that fails is left out with a warning: it must not keep the rest from working.
    """
    global _loaded
    if _loaded:
        return
    _loaded = True  # first, since a package that registers asks the registries
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            warnings.warn(
                f"the entry point {point.name} = {point.value} of group {GROUP} cannot be loaded "
                f"and is left out: {type(error).__name__}: {error}",
                stacklevel=2,
            )
