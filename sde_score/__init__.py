"""sde_score: score matching and diffusion as views of one trained model.

Rooms, from the ground up: `random`, `distributions`, `scaling`, `sdes` (forward diffusions), `nn`
(networks), `models` (what has a score), `data`, `mcmc` (Markov chains), `samplers`, `objectives`,
`discrete` (NCSN and DDPM), `guidance`, `likelihood`, `training`, `interop` (checkpoints of other
code), `evaluation`, `report`. Each is public as `sde_score.<room>` and loaded when it is first
used; what is typed first, such as `VP` or `train`, is public as `sde_score.<name>`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sde_score._core import __version__ as __version__

if TYPE_CHECKING:
    from sde_score.data import load as load_data
    from sde_score.discrete import HierarchicalVAE, NoiseScales
    from sde_score.likelihood import bits_per_dim, log_prob
    from sde_score.models import EnergyModel, GaussianMixture, ScoreModel
    from sde_score.objectives import DenoisingScoreMatching
    from sde_score.report import citation
    from sde_score.samplers import create as create_sampler
    from sde_score.samplers import sample
    from sde_score.sdes import EDM, VE, VP, Cosine, Rectified, SubVP
    from sde_score.training import TrainConfig, load_run, train

_ROOMS = (
    "random",
    "distributions",
    "scaling",
    "sdes",
    "nn",
    "models",
    "data",
    "mcmc",
    "samplers",
    "objectives",
    "discrete",
    "guidance",
    "likelihood",
    "posterior",
    "training",
    "interop",
    "evaluation",
    "report",
)

_NAMES = {
    "VE": "sdes.VE",
    "VP": "sdes.VP",
    "SubVP": "sdes.SubVP",
    "Cosine": "sdes.Cosine",
    "EDM": "sdes.EDM",
    "Rectified": "sdes.Rectified",
    "ScoreModel": "models.ScoreModel",
    "EnergyModel": "models.EnergyModel",
    "GaussianMixture": "models.GaussianMixture",
    "DenoisingScoreMatching": "objectives.DenoisingScoreMatching",
    "create_sampler": "samplers.create",
    "sample": "samplers.sample",
    "log_prob": "likelihood.log_prob",
    "bits_per_dim": "likelihood.bits_per_dim",
    "NoiseScales": "discrete.NoiseScales",
    "HierarchicalVAE": "discrete.HierarchicalVAE",
    "train": "training.train",
    "TrainConfig": "training.TrainConfig",
    "load_run": "training.load_run",
    "load_data": "data.load",
    "citation": "report.citation",
}

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Cosine",
    "DenoisingScoreMatching",
    "EnergyModel",
    "GaussianMixture",
    "HierarchicalVAE",
    "NoiseScales",
    "Rectified",
    "ScoreModel",
    "SubVP",
    "TrainConfig",
    "bits_per_dim",
    "citation",
    "create_sampler",
    "load_data",
    "load_run",
    "log_prob",
    "sample",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a room, or a name out of one, on first use."""
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        room, attribute = _NAMES[name].split(".")
        return getattr(importlib.import_module(f"{__name__}.{room}"), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names that tab completion shows."""
    return sorted([*globals(), *_ROOMS, *_NAMES])
