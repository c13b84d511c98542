"""Other people's checkpoints: read without running anything in them, as models of ours.

`load` recognizes a file by the names of its tensors, infers the configuration from their shapes,
asks by name for what no file says, and gives an `Imported`: network, diffusion, parametrization and
data range of one `ScoreModel`, which samples and has likelihoods like any other.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from sde_score._core.checks import shown
from sde_score._core.registry import refuse_unknown
from sde_score.interop import (
    adm,
    ddim,
    diffusers,
    dit,
    edm,
    edm2,
    kdiff,
    lucidrains,
    ncsnv2,
    pretrained,
    score_sde,
    uvit,
)
from sde_score.interop.deepinv import DeepinvDenoiser
from sde_score.interop.diffusers_folder import save_diffusers
from sde_score.interop.files import Contents, read_contents
from sde_score.interop.imported import Family, Imported
from sde_score.interop.pretrained import from_pretrained, push_to_hub, save_pretrained
from sde_score.interop.sampler_scheduler import as_diffusers_scheduler
from sde_score.interop.scheduler_sampler import SchedulerSampler
from sde_score.training.errors import CheckpointError

__all__ = [
    "FAMILIES",
    "Contents",
    "DeepinvDenoiser",
    "Family",
    "Imported",
    "SchedulerSampler",
    "as_diffusers_scheduler",
    "from_pretrained",
    "load",
    "push_to_hub",
    "read_contents",
    "save_diffusers",
    "save_pretrained",
]

FAMILIES: tuple[Family, ...] = (
    pretrained.FAMILY,
    adm.FAMILY,
    score_sde.FAMILY,
    dit.FAMILY,
    lucidrains.FAMILY,
    edm.FAMILY,
    uvit.FAMILY,
    diffusers.FAMILY,
    ddim.FAMILY,
    ncsnv2.FAMILY,
    edm2.FAMILY,
    kdiff.FAMILY,
)
"""Families of checkpoints, in the order in which a file is tried."""


def load(path: str | Path, family: str | None = None, **options: Any) -> Imported:
    """Read somebody else's checkpoint.

    Args:
        path: file or folder, see `read_contents`.
        family: name of one in `FAMILIES`; None recognizes it.
        options: what the file does not say; each family names its own, as in
            `load(path, preset="imagenet-256")`.

    Raises:
        CheckpointError: for a file that is missing, damaged, hostile or of no known family, or
            weights that do not fit the configuration.
        ValueError: for options that the family does not take, or needs and lacks.
    """
    contents = read_contents(path)
    found = [
        one
        for one in FAMILIES
        if (one.recognizes(contents) if family is None else one.name == family)
    ]
    if not found:
        names = ", ".join(one.name for one in FAMILIES)
        raise CheckpointError(
            f"{path} is a checkpoint of no known family"
            + (f" {family!r}" if family else "")
            + f"; known are {names}. It holds {_summary(contents)}"
        )
    chosen = found[0]
    refuse_unknown(
        f"family {chosen.name!r}", options, list(inspect.signature(chosen.read).parameters)[1:]
    )
    return chosen.read(contents, **options)


def _summary(contents: Contents) -> str:
    config = contents.config.get("config.json")
    if isinstance(config, dict) and "_class_name" in config:
        return f"a {config['_class_name']!s:.80} of diffusers"
    if contents.tensors:
        return f"{len(contents.tensors)} tensors, such as {shown(sorted(contents.tensors)[:3])}"
    if isinstance(contents.content, dict):
        return f"the entries {shown(list(contents.content)[:8])}"
    return f"an object of class {type(contents.content).__name__}"
