"""An estimated partition function, and the log-likelihood of an energy that it gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_batch
from sde_score.likelihood.partition.estimators import Measurement, effective_size
from sde_score.models import Density, Marginal, Model


@dataclass(frozen=True, eq=False)
class LogPartition:
    """log Z = log of the integral of exp(-energy), with its error.

    Args:
        value: in nats.
        standard_error: of the value, over independent chains or populations.
        lower: a number whose expected value is below log Z, by half its variance at best, or None.
        upper: one whose expected value is above, or None.
        forward: log weights w with E[w] = Z, one per independent run, float64, or None.
        reverse: log weights with E[w] = 1 / Z, or None.
        samples: of the density, as good as the run was, `(chains, *event)`, or None.
        betas: stops on the path.
        step_sizes: of the kernel at the stops.
        acceptance: mean at the stops where the chains were moved.
    """

    value: float
    standard_error: float
    lower: Measurement | None
    upper: Measurement | None
    forward: Tensor | None
    reverse: Tensor | None
    samples: Tensor | None
    betas: list[float]
    step_sizes: list[float]
    acceptance: Tensor

    @property
    def ess(self) -> float:
        """Effective number of the independent runs, of the worse direction if there are two.

        Where it is a small share of the runs, one of them decides, and the standard error is no
        longer to be trusted.
        """
        weights = [w for w in (self.forward, self.reverse) if w is not None]
        return min(effective_size(w) for w in weights)

    def __str__(self) -> str:
        text = f"log Z = {self.value:.4f} +- {self.standard_error:.4f} nats"
        for name, bound in (("lower", self.lower), ("upper", self.upper)):
            if bound is not None:
                text += f", {name} {bound.value:.4f} +- {bound.standard_error:.4f}"
        return f"{text}, ess {self.ess:.1f}"


@dataclass(frozen=True, eq=False)
class EnergyLikelihood:
    """Log densities under an energy-based model, with their error from log Z.

    Args:
        log_prob: -energy - log Z of each example, in nats, float64 `(batch,)`.
        standard_error: of log Z, which all examples share: it moves them together.
        lower: with the upper bound of log Z, `(batch,)`, or None.
        upper: with the lower bound of log Z, `(batch,)`, or None.
    """

    log_prob: Tensor
    standard_error: float
    lower: Tensor | None
    upper: Tensor | None


def energy_log_prob(
    density: Density | Model, x: Tensor, partition: LogPartition
) -> EnergyLikelihood:
    r"""Log density of x under an energy-based model, given its partition function.

    .. math:: \log p(x) = -E(x) - \log Z

    Args:
        density: the one whose partition function it is; a model stands for its marginal at `t_min`.
        x: shape `(batch, *event)`.
        partition: from `log_partition`.

    Raises:
        TypeError: if x is not floating point or the model has no energy.
        ValueError: if x requires a gradient, which is the score of the density.
    """
    require_batch("x", x)
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "x requires a gradient, and the result has none: that gradient is its score, "
            "density.score(x); give x.detach()"
        )
    marginal = Marginal(density) if isinstance(density, Model) else density
    with torch.no_grad():
        minus = -marginal.energy(x).double()
    low, high = partition.lower, partition.upper
    return EnergyLikelihood(
        minus - partition.value,
        partition.standard_error,
        None if high is None else minus - high.value,
        None if low is None else minus - low.value,
    )
