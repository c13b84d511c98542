r"""The posterior of several independent observations, composed of the posteriors of each.

    many = Compositional(run.model, run.condition_of(ys))
    samplers.sample(many, "heun(steps=18)", run.event_shape, 1000)

A network that was trained on pairs (theta, y) knows p(theta | y). For n observations

.. math:: p(\theta | y_1, ..., y_n) \propto p(\theta)^{1-n} \prod_i p(\theta | y_i)

without further training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_choice, require_count, shown
from sde_score._core.conditions import Condition, mapped, nothing_like
from sde_score.models import (
    Model,
    Scales,
    WrappedDenoiser,
    as_condition,
    normal_tensor,
    require_model,
    value_and_point,
)
from sde_score.samplers import Sampler, sample

CORRECTIONS = {
    "gauss": "biased: p(theta | theta_t, y) is taken to be normal, with a covariance estimated from"
    " samples; exact where the prior and all posteriors are normal",
    "jacobian": "biased: p(theta | theta_t, y) is taken to be normal, with the covariance that the "
    "network's Jacobian says; exact where the prior and all posteriors are normal",
    "fnpe": "biased: the sum of scores is not the score of a diffused distribution, so that samples"
    " are too narrow, the more observations the more",
}
"""Ways to correct the sum of scores, and what samples tend to with ever more steps."""

_SMALLEST = 1e-4  # eigenvalue of a covariance, as a share of that of independent entries


class Compositional(WrappedDenoiser):
    r"""A model of theta given n independent observations.

    With the denoised means D_i given y_i alone and D_0 without observation, and precisions P_i and
    P_0 of theta given a noisy one,

    .. math:: D = D_0 + \Lambda^{-1} \sum_i P_i (D_i - D_0), \qquad
              \Lambda = P_0 + \sum_i (P_i - P_0) .

    The precisions are those of the `correction`: `jacobian` inverts (sigma^2 / alpha) dD/dx, one
    backward pass for each dimension; `gauss` takes S^-1 + alpha^2 / sigma^2 with covariances S of
    samples, no backward pass; `fnpe` takes all alike, which is the sum of scores,

    .. math:: \sum_i s(x, t | y_i) - (n - 1) \, s(x, t) ,

    and is biased. An observation never lowers a precision: where an estimate does, that direction
    keeps the prior's. All means come of one batch, and count as n + 1 evaluations.

    Args:
        model: of theta given one observation; anything with the model protocol.
        observations: what the network is told of each, in model range: shape `(n, ...)`, or a
            dictionary of such.
        correction: `"jacobian"`, `"gauss"` or `"fnpe"`; `limit` says how it is biased.
        prior: model of theta without observation; None asks `model` without a condition.
        covariances: for `gauss`, shape `(n + 1, d, d)`, the prior's first, see `covariances`.

    Raises:
        TypeError: if `model` or `prior` lacks the protocol.
        ValueError: for another correction, covariances of another shape, too few or too many, or a
            model that knows no answer without a condition where no prior is given.

    Reference: Linhart et al. 2024, https://arxiv.org/abs/2404.07157 (GAUSS and JAC); Geffner et
    al. 2023, https://arxiv.org/abs/2209.14249 (FNPE; there a prior with a formula has the weight
    1 - t, and Langevin steps correct the rest).
    """

    def __init__(
        self,
        model: Model,
        observations: Condition,
        correction: str = "jacobian",
        *,
        prior: Model | None = None,
        covariances: Tensor | None = None,
    ) -> None:
        super().__init__(model)
        require_choice("correction", correction, tuple(CORRECTIONS))
        self.correction = correction
        self.observations, self.count = _observed(model, observations)
        _require_prior(model, prior)
        self.prior = prior
        if (correction == "gauss") != (covariances is not None):
            fix = "give covariances(model, observations, event_shape)"
            raise ValueError(
                f"correction={correction!r} takes {'no ' if covariances is not None else ''}"
                f"covariances{'' if covariances is not None else ': ' + fix}"
            )
        self.precisions = None if covariances is None else _precisions(covariances, self.count)

    @property
    @override
    def takes_condition(self) -> bool:
        """False: the observations are given when it is made."""
        return False

    @property
    def limit(self) -> str:
        """What samples tend to with ever more steps."""
        return CORRECTIONS[self.correction]

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False):
            x, t = normal_tensor(x), normal_tensor(at.t)
            at = Scales(at.sde, t, at.sigma_data)
            rows = x.repeat(self.count + 1, *(1,) * (x.ndim - 1))
            if self.correction != "jacobian":
                means = self._means(rows, t)
                return self._composed(_stacked(means, len(x)), at, None)
            means, points = value_and_point(lambda z: self._means(z, t), rows)
            with torch.set_grad_enabled(keep):
                jacobian = _stacked(_jacobian(means, points, keep), len(x))
                means = _stacked(means if keep else means.detach(), len(x))
                return self._composed(means, at, jacobian)

    def _means(self, rows: Tensor, t: Tensor) -> Tensor:
        """Denoised means without observation and given each, n + 1 batches one behind another."""
        batch = len(rows) // (self.count + 1)
        first = 0 if self.prior is None else batch
        told = mapped(self.observations, lambda y: y.to(rows.device).repeat_interleave(batch, 0))
        if self.prior is None:
            told = mapped(told, lambda y: torch.cat([nothing_like(y[:batch]), y]))
        asked, before = self.count + (self.prior is None), self.model.nfe
        means = self.model.denoise(rows[first:], t.repeat(asked) if t.ndim else t, told)
        self.nfe += (asked - 1) * (self.model.nfe - before)  # beyond the one of a batch
        if self.prior is None:
            return means
        before = self.prior.nfe
        wide = self.prior.denoise(rows[:batch], t)
        self.nfe += self.prior.nfe - before
        return torch.cat([wide, means])

    def _composed(self, means: Tensor, at: Scales, jacobian: Tensor | None) -> Tensor:
        """D, of means `(n + 1, batch, *event)` and Jacobians `(n + 1, batch, d, d)`."""
        first, changes = means[0], means[1:] - means[0]
        if self.correction == "fnpe":
            return first + changes.sum(0)
        changes = changes.flatten(2).double()
        size = changes.shape[-1]
        if self.precisions is not None:
            prior, gains = self.precisions.to(changes)[0], self.precisions.to(changes)[1:, None]
            ratio = expand_like((at.alpha / at.sigma) ** 2, changes[0, :, :, None])
            prior = prior + ratio * torch.eye(size).to(changes)
        else:
            # The covariance is sigma^2 / alpha times that; a factor of all makes no difference.
            slopes: Tensor = jacobian.double()  # type: ignore[union-attr]
            usual = at.alpha * (at.sigma_data / at.spread) ** 2  # of independent entries
            lowest = expand_like(_SMALLEST * usual, slopes[0, ..., 0])
            inverses = torch.linalg.inv(_floored(slopes, lowest))
            prior, gains = inverses[0], _floored(inverses[1:] - inverses[0])
        if prior.shape[-1] != size:
            raise ValueError(f"covariances are {prior.shape[-1]} wide, and x has {size} entries")
        weighted = ((prior + gains) @ changes[..., None]).sum(0)
        moved = torch.linalg.solve(prior + gains.sum(0), weighted)[..., 0]
        found: Tensor = first + moved.reshape(first.shape).to(first)
        return found

    @override
    def extra_repr(self) -> str:
        return f"observations={self.count}, correction={self.correction!r}: {self.limit}"


def covariances(
    model: Model,
    observations: Condition,
    event_shape: Sequence[int],
    *,
    prior: Model | None = None,
    draws: int = 1000,
    sampler: str | Sampler = "heun(steps=18)",
    seed: int = 0,
) -> Tensor:
    """Covariances of theta without observation and given each, of samples.

    Args:
        model: of theta given one observation.
        observations: what the network is told of each, shape `(n, ...)`, or a dictionary.
        event_shape: shape of theta, of d entries.
        prior: model of theta without observation; None asks `model` without a condition.
        draws: samples of each, more than d.
        sampler: that draws them.
        seed: random seed.

    Returns:
        Shape `(n + 1, d, d)`, float64, without observation first.

    Raises:
        ValueError: for too few draws, or as for `Compositional`.
    """
    told, count = _observed(model, observations)
    _require_prior(model, prior)
    require_count(prod(event_shape) + 1, draws=draws)
    told = mapped(told, lambda y: y.repeat_interleave(draws, 0))
    wide = sample(
        model if prior is None else prior, sampler, event_shape, draws, seed=seed,
        batch_size=draws, progress=False,
    )  # fmt: skip
    given = sample(
        model, sampler, event_shape, draws * count, seed=seed, condition=told,
        batch_size=draws, progress=False,
    )  # fmt: skip
    sets = _stacked(torch.cat([wide, given]).flatten(1).double(), draws)
    centered = sets - sets.mean(1, keepdim=True)
    return centered.mT @ centered / (draws - 1)


def _stacked(rows: Tensor, batch: int) -> Tensor:
    """Batches one behind another as a dimension of their own, the first."""
    return rows.reshape(-1, batch, *rows.shape[1:])


def _observed(model: Model, observations: Condition) -> tuple[Condition, int]:
    """The observations and their number."""
    values = list(observations.values() if isinstance(observations, Mapping) else [observations])
    sizes = {len(value) if isinstance(value, Tensor) and value.ndim else 0 for value in values}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"observations={shown(observations)} must be tensors with a row for each observation"
        )
    (count,) = sizes
    return as_condition(observations, count, model=model), count


def _require_prior(model: Model, prior: Model | None) -> None:
    if prior is not None:
        require_model(prior, "prior")
        if prior.sde != model.sde:
            raise ValueError(f"prior has {prior.sde}, and model {model.sde}: give models of one")
    elif getattr(model, "needs_condition", False):
        raise ValueError(
            "model was trained with a condition for every example, so that it does not know the "
            "prior: train with condition_dropout=0.1, or give prior="
        )


def _precisions(given: Tensor, count: int) -> Tensor:
    """The prior's precision, and what each observation adds to it, shape `(n + 1, d, d)`."""
    given = torch.as_tensor(given, dtype=torch.float64)
    if given.ndim != 3 or given.shape[1] != given.shape[2] or len(given) != count + 1:
        raise ValueError(
            f"covariances of shape {tuple(given.shape)} must be ({count + 1}, d, d): the prior's "
            f"and those of {count} observations"
        )
    if not bool((torch.linalg.eigvalsh(given) > 0).all()):
        raise ValueError("covariances are not positive definite: take more draws")
    inverses = torch.linalg.inv(given)
    return torch.cat([inverses[:1], _floored(inverses[1:] - inverses[:1])])


def _jacobian(value: Tensor, point: Tensor, keep: bool) -> Tensor:
    """Jacobians of each example, symmetrised, shape `(rows, d, d)`."""
    size = prod(value.shape[1:])
    basis = torch.eye(size).to(value).reshape(size, 1, *value.shape[1:]).expand(-1, *value.shape)
    rows = [
        torch.autograd.grad(value, point, e, retain_graph=True, create_graph=keep)[0].flatten(1)
        for e in basis
    ]
    found = torch.stack(rows, 1)
    return (found + found.mT) / 2


def _floored(matrices: Tensor, lowest: Tensor | float = 0.0) -> Tensor:
    """Symmetric matrices with no eigenvalue below the lowest.

    What is added counts as constant in derivatives, since those of equal eigenvectors are not
    finite.
    """
    values, vectors = torch.linalg.eigh(matrices.detach())
    added: Tensor = (vectors * (lowest - values).clamp(min=0)[..., None, :]) @ vectors.mT
    return matrices + added
