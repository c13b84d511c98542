"""Optional packages: asked for when they are needed, with the extra that installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from sde_score._core.errors import DataError


def require_extra(module: str, extra: str) -> ModuleType:
    """Import a module of an optional extra.

    Args:
        module: of it.
        extra: name in brackets behind the name of this package.

    Raises:
        DataError: if it is not installed, telling how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"this needs {module.partition('.')[0]}, which is not installed: pip install "
            f"'sde-score[{extra}]'"
        ) from error
