"""sde_score: score matching and diffusion as views of one trained model.

Rooms, from the ground up: `sdes` (forward diffusions), `nn` (networks), `models` (what has a
score), `objectives`, `samplers`, `likelihood`, `data`, `training`, `evaluation`, `report`. Each is
loaded when it is first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = (
    "data",
    "evaluation",
    "likelihood",
    "models",
    "nn",
    "objectives",
    "random",
    "report",
    "samplers",
    "sdes",
    "training",
)


def __getattr__(name: str) -> ModuleType:
    """Load a room on first use."""
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names that tab completion shows."""
    return sorted([*globals(), *_ROOMS])
