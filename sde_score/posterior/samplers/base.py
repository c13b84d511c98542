"""Samplers of a posterior that are more than a model's score: an observation guides their steps."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from typing_extensions import override

from sde_score.models import GaussianMixture, Model
from sde_score.posterior.observations import Measurement, Observation, as_measurement
from sde_score.samplers import Sampler, SamplerRegistry
from sde_score.sdes import SDE, VP


@dataclass(frozen=True)
class PosteriorSampler(Sampler):
    """A sampler of a model's distribution given an observation.

    It is called as any other sampler, with the model of the prior. Sample i depends on seed i
    alone.

    Args:
        observation: what was seen of every sample, a `Measurement` unless the class says more.

    Raises:
        TypeError: for another kind of observation.
    """

    observation: Observation = field(kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_observation()

    def __str__(self) -> str:
        return f"{self.text()}: {self.limit}"

    @property
    @abstractmethod
    def limit(self) -> str:
        """What samples tend to with ever more steps: `"exact ..."`, or `"biased: ..."` and how."""

    def require_observation(self) -> None:
        """Refuse an observation that the method cannot use; a subclass may accept more."""
        as_measurement(self.observation, type(self).__name__)

    @property
    def measurement(self) -> Measurement:
        """The observation of a method for linear measurements with Gaussian noise."""
        return as_measurement(self.observation, type(self).__name__)

    @override
    def count_nfe(self, model: Model | SDE | None = None) -> int:
        """Network evaluations per sample, counted on a normal distribution."""
        shape = self.measurement.operator.event_shape
        sde = model if model is None or isinstance(model, SDE) else model.sde
        normal = GaussianMixture(torch.zeros(1, *shape), 0.5, sde or VP())
        self(normal, (1, *shape), seed=0, progress=False)
        return normal.nfe


SAMPLERS = SamplerRegistry("posterior sampler", base=PosteriorSampler)
"""Posterior samplers by name, filled by the room, and those of users by `register`."""
