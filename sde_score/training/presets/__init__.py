"""Presets: published and proven configurations by name, small YAML files beside this one.

A file holds `about`, a sentence, and the fields of `TrainConfig` that differ from their defaults;
`reference` names the paper, where there is one. What a user gives besides overrides it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sde_score._core.files import read_text
from sde_score._core.registry import refuse_unknown
from sde_score.training.config import TrainConfig

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    """A configuration with a name.

    Args:
        name: of the preset.
        about: what it is, in a sentence.
        reference: the paper, or "" for one of our own.
        fields: of `TrainConfig`, by name.
    """

    name: str
    about: str
    reference: str
    fields: dict[str, Any]

    def config(self, **changes: Any) -> TrainConfig:
        """The configuration.

        Args:
            changes: fields that override the preset.
        """
        return TrainConfig(**{**self.fields, **changes})

    def __str__(self) -> str:
        given = [f"  {name}: {value}" for name, value in self.fields.items()]
        title = f"preset {self.name}: {self.about}" + f" ({self.reference})" * bool(self.reference)
        return "\n".join([title, *given])


def names() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def preset(name: str) -> Preset:
    """A preset by its name.

    Args:
        name: one of `names()`; dashes and underscores are alike.

    Raises:
        ValueError: for an unknown name, with those that are accepted.
    """
    import yaml

    known = str(name).lower().replace("_", "-")
    if known not in names():
        raise ValueError(f"unknown preset {name!r}; accepted: {', '.join(names())}")
    fields = yaml.safe_load(read_text(_FOLDER / f"{known}.yaml"))
    about, reference = fields.pop("about"), fields.pop("reference", "")
    refuse_unknown(f"preset {known!r}", fields, [f.name for f in dataclasses.fields(TrainConfig)])
    return Preset(known, about, reference, fields)
