r"""Energies composed of energies: sums (products of experts, tempering, negation) and mixtures.

    both = EnergySum([a, b])                        # p_a p_b, product of experts
    cold = EnergySum([a], [1 / 0.5])                # p_a^2, tempering at T = 0.5
    not_b = EnergySum([a, b], [1, -0.5])            # p_a / p_b^0.5, negation
    committee = EnergySum.ensemble([a, b, c])       # mean energy
    either = EnergyMixture([a, b], [0.3, 0.7])      # 0.3 p_a + 0.7 p_b

Each is an energy-based model at every time: Markov chains that use the energy (`mala`, `hmc`,
`nuts`) draw from it exactly, and `likelihood.log_partition` gives its constant. What is composed at
a time t > t_min are the marginals there, which are those of the diffused composition for mixtures
alone: samplers that follow the score of a sum from `t_max` need weights or chains to correct them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from sde_score._core.checks import is_finite, require_positive, shown
from sde_score._core.conditions import Condition
from sde_score._core.errors import ArgumentError
from sde_score.models.base import BaseEnergy
from sde_score.models.parametrization import Scales
from sde_score.models.protocol import EnergyBased, Model
from sde_score.models.tails import integrable
from sde_score.models.wrapped import SeveralModels, stand_in

LogZ = float | Callable[[Tensor], Tensor]
"""log Z of a model: a number, or a function of t."""

_TIMES = 17  # at which a negation is checked, from `t_min` to `t_max`


class _Parts(SeveralModels):
    """The models of a composition, each asked under the condition that is meant for it."""

    models: tuple[EnergyBased, ...]

    def __init__(self, models: Sequence[EnergyBased], conditions: Sequence[Any] | None) -> None:
        if not isinstance(models, (list, tuple)):
            raise ArgumentError(f"models={shown(models)} must be a list of energy-based models")
        super().__init__(models)
        for index, model in enumerate(models):
            if not isinstance(model, EnergyBased):
                raise ArgumentError(
                    f"models[{index}] is a {type(model).__name__}, which has a score and no "
                    "energy; accepted: EnergyModel, EnergyFunction, GaussianMixture and others "
                    "with energy and energy_and_score"
                )
        self.conditions = _per_model("conditions", conditions, len(models))

    @property
    def stand_in(self) -> EnergySum:
        """A sum of one dimension that makes as many evaluations at every time."""
        return EnergySum([cast(EnergyBased, stand_in(model)) for model in self.models])

    def energies(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        """Energy of each model, `(models, batch)`."""
        asked = zip(self.models, self.told(x, condition), strict=True)
        return torch.stack([model.energy(x, at.t, each) for model, each in asked])

    def energies_and_scores(
        self, x: Tensor, at: Scales, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """Energy `(models, batch)` and score `(models, batch, *event)` of each model."""
        asked = zip(self.models, self.told(x, condition), strict=True)
        both = [model.energy_and_score(x, at.t, each) for model, each in asked]
        energies, scores = zip(*both, strict=True)
        return torch.stack(energies), torch.stack(scores)

    def told(self, x: Tensor, condition: Condition) -> list[Condition]:
        """The condition of each model: its own, or else that of the call, if it takes one."""
        if condition is not None and not self.take_condition:
            raise ValueError("condition was given, but no model takes it: leave it out")
        return [
            condition if takes else None if own is None else _for_each(own, x)
            for own, takes in zip(self.conditions, self._takes, strict=True)
        ]

    @property
    def _takes(self) -> list[bool]:
        """Whether each model is asked under the condition of the call."""
        return [
            own is None and bool(getattr(model, "takes_condition", True))
            for own, model in zip(self.conditions, self.models, strict=True)
        ]

    @property
    def take_condition(self) -> bool:
        """Whether any model is asked under the condition of the call."""
        return any(self._takes)


class EnergySum(nn.Module, BaseEnergy):
    r"""A weighted sum of energies: a product of powers of densities.

    .. math:: E(x, t) = \sum_i w_i E_i(x, t), \qquad p(x) \propto \prod_i p_i(x)^{w_i}

    Weights 1 make the product of experts; one model with the weight 1 / T is tempered; weights that
    sum to one make the mean energy of an ensemble; a weight below zero keeps away from a model.
    Constants of the energies only move that of the sum, so none need be known.

    **Negation** has a limit: past it exp(-E) grows without end. Where a weight is negative, the
    limit is checked at 17 times from `t_min` to `t_max`, as far as it is known (see `integrable`):
    exactly for Gaussians, by a bound for `GaussianMixture` and `EmpiricalDistribution`. Of networks
    only one thing is known: at `t_max` all marginals are nearly the same normal distribution, so
    that the weights must sum to more than 0.

    Args:
        models: energy-based models of one diffusion; the same may come more than once.
        weights: finite, not 0, one per model; None for 1.
        conditions: for each model the label or vector of one example, under which it is always
            asked, -1 or NaN for none; None for the condition of the call. None for all alike.

    Raises:
        TypeError: for what is no energy-based model.
        ValueError: for models of different diffusions, weights or conditions of another number, or
            weights for which there is no density.

    Reference: Hinton 2002, https://doi.org/10.1162/089976602760128018 (products of experts); Du et
    al. 2020, https://arxiv.org/abs/2004.06030 (negation).
    """

    def __init__(
        self,
        models: Sequence[EnergyBased],
        weights: Sequence[float] | None = None,
        conditions: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        self.parts = _Parts(models, conditions)
        self._sde = self.parts.sde
        given = _per_model("weights", weights, len(models), 1.0)
        for index, weight in enumerate(given):
            if not is_finite(weight) or weight == 0:
                raise ArgumentError(
                    f"weights[{index}]={shown(weight)} must be a finite number other than 0"
                )
        self.weights = tuple(float(weight) for weight in given)
        if min(self.weights) < 0:
            self._require_density()

    @classmethod
    def ensemble(cls, models: Sequence[EnergyBased]) -> Self:
        """The mean energy of models that were trained for the same density.

        Args:
            models: as for the class.
        """
        return cls(models, [1 / len(models)] * len(models))

    @cached_property
    def stand_in(self) -> Model:
        """A model of one dimension that makes as many evaluations at every time."""
        return self.parts.stand_in

    @property
    def takes_condition(self) -> bool:
        """Whether any model is asked under the condition of the call."""
        return self.parts.take_condition

    def integrable(self, t: float) -> bool | None:
        """Whether exp(-E) has a finite integral at t: None where that is not known.

        Args:
            t: time.
        """
        return integrable(self.parts.models, self.weights, t)

    @override
    def _energy(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        before = self.parts.evaluations
        energies = self.parts.energies(x, at, condition)
        self.nfe += self.parts.evaluations - before - 1  # the caller counts one for each answer
        return self._sum(energies)

    @override
    def _energy_and_score(
        self, x: Tensor, at: Scales, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        before = self.parts.evaluations
        energies, scores = self.parts.energies_and_scores(x, at, condition)
        self.nfe += self.parts.evaluations - before - 1
        return self._sum(energies), self._sum(scores)

    def _sum(self, each: Tensor) -> Tensor:
        weights = torch.tensor(self.weights, dtype=torch.float64).to(each)
        total: Tensor = torch.tensordot(weights, each, 1)
        return total

    def _require_density(self) -> None:
        total, sde = sum(self.weights), self.sde
        first, last = (float(sde.log_snr(t)) for t in (sde.t_min, sde.t_max))
        between = torch.linspace(first, last, _TIMES, dtype=torch.float64)[1:-1]
        times = [sde.t_min, *sde.time_of_log_snr(between).tolist(), sde.t_max]
        known = [self.integrable(t) for t in times]
        if False in known:
            raise ValueError(
                f"weights={list(self.weights)} leave no density at t={times[known.index(False)]:g}:"
                " there exp(-energy) grows without end; give negative weights closer to 0"
            )
        if None in known and total <= 0:
            raise ValueError(
                f"weights={list(self.weights)} sum to {total:g}, and must sum to more than 0: at "
                "t_max all marginals are nearly the same, and no density is left of them"
            )

    @override
    def extra_repr(self) -> str:
        return f"weights={self.weights}"


class EnergyMixture(nn.Module, BaseEnergy):
    r"""The mixture of the densities of energies.

    .. math:: E(x, t) = -\log \sum_i w_i e^{-E_i(x, t) - \log Z_i(t)}, \qquad
              score = \sum_i r_i\, score_i, \quad r_i \propto w_i e^{-E_i - \log Z_i}

    What an energy is worth beside another depends on its constant: log Z must be known for each,
    exactly or from `likelihood.log_partition(model, start).value`, whose error moves the weight of
    that model by as many nats. It depends on t, so a number serves one time alone. The mixture is
    normalized as far as they are, and so are mixtures of mixtures.

    Args:
        models: energy-based models of one diffusion.
        weights: positive, one per model; normalized here; None for equal ones.
        log_z: log Z of each model, a number for the one time at which the mixture is used, or a
            function of t (`()` or `(batch,)`); None if all are normalized, that is, have
            `log_prob(x, t)`.
        conditions: as for `EnergySum`.

    Raises:
        TypeError: for what is no energy-based model, or no log Z.
        ValueError: for models of different diffusions, a weight that is not positive, numbers of
            entries that do not fit, or unnormalized models without log Z.
    """

    def __init__(
        self,
        models: Sequence[EnergyBased],
        weights: Sequence[float] | None = None,
        log_z: Sequence[LogZ] | None = None,
        conditions: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        self.parts = _Parts(models, conditions)
        self._sde = self.parts.sde
        given = _per_model("weights", weights, len(models), 1.0)
        require_positive(**{f"weights[{i}]": weight for i, weight in enumerate(given)})
        self.weights = tuple(float(weight) / sum(map(float, given)) for weight in given)
        loose = [type(m).__name__ for m in models if not callable(getattr(m, "log_prob", None))]
        if log_z is None and loose:
            raise ValueError(
                f"log_z is missing: {loose[0]} is not normalized, so its share in a mixture is not "
                "known; give log_z=[log_partition(model, start).value for model in models]"
            )
        self.log_z = _per_model("log_z", log_z, len(models), 0.0)
        for index, value in enumerate(self.log_z):
            if not is_finite(value) and not callable(value):
                raise ArgumentError(
                    f"log_z[{index}]={shown(value)} must be a finite number or a function of t: "
                    "of a LogPartition take .value"
                )

    @cached_property
    def stand_in(self) -> Model:
        """A model of one dimension that makes as many evaluations at every time."""
        return self.parts.stand_in

    @property
    def takes_condition(self) -> bool:
        """Whether any model is asked under the condition of the call."""
        return self.parts.take_condition

    def log_prob(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """Log density of x_t in nats, `(batch,)`, as exact as `log_z` is."""
        return -self.energy(x, t, condition)

    def shares(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """Probability that x comes from each model, `(models, batch)`.

        Args:
            x: shape `(batch, *event)`.
            t: time, a scalar or `(batch,)`.
            condition: of the call.
        """
        at = self._scales(x, t)
        before = self.parts.evaluations
        energies = self.parts.energies(x, at, condition)
        self.nfe += self.parts.evaluations - before
        return self._log_terms(energies, at).softmax(0)

    @override
    def _energy(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        before = self.parts.evaluations
        energies = self.parts.energies(x, at, condition)
        self.nfe += self.parts.evaluations - before - 1  # the caller counts one for each answer
        return -self._log_terms(energies, at).logsumexp(0)

    @override
    def _energy_and_score(
        self, x: Tensor, at: Scales, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        before = self.parts.evaluations
        energies, scores = self.parts.energies_and_scores(x, at, condition)
        self.nfe += self.parts.evaluations - before - 1
        terms = self._log_terms(energies, at)
        share = terms.softmax(0).reshape(*terms.shape, *(1,) * (x.ndim - 1))
        return -terms.logsumexp(0), (share * scores).sum(0)

    def _log_terms(self, energies: Tensor, at: Scales) -> Tensor:
        """log(w_i exp(-E_i) / Z_i), `(models, batch)`."""
        terms = []
        for energy, weight, log_z in zip(energies, self.weights, self.log_z, strict=True):
            constant = log_z(at.t).to(energy) if callable(log_z) else float(log_z)
            terms.append(math.log(weight) - constant - energy)
        return torch.stack(terms)

    @override
    def extra_repr(self) -> str:
        return f"weights={self.weights}"


def _per_model(name: str, given: Sequence[Any] | None, count: int, default: Any = None) -> Any:
    """One entry per model."""
    values = [default] * count if given is None else given
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        raise ArgumentError(f"{name}={shown(given)} must have one entry per model, {count}")
    return tuple(values)


def _for_each(own: Any, x: Tensor) -> Tensor:
    """The condition of one example, for all."""
    value = torch.as_tensor(own, device=x.device)
    return value.expand(len(x), *value.shape)
