"""Out-of-distribution detection: scores of single examples, and how well they tell two sets apart.

Each score is larger for what a model finds familiar:

`log-density`   log p(x) up to a constant, -E(x), of any energy-based model
`max-softmax`   the probability of the likeliest class, of an `EnergyClassifier`
`energy`        T log sum exp(f / T) of its logits f; with T = 1 it is `log-density`
`mass`          -|grad log p(x)|, of any model: large where the density is flat, as it is where
                much of the mass lies

A density alone may prefer what is simple to what is familiar; none of these is a test with a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score._core.errors import ArgumentError
from sde_score.evaluation.metrics.confidence import Interval
from sde_score.models import EnergyClassifier, Marginal, Model, as_batch, require_model


def _log_density(model: Any, x: Tensor, t: float, temperature: float) -> Tensor:
    return -Marginal(model, t).energy(x)


def _max_softmax(model: Any, x: Tensor, t: float, temperature: float) -> Tensor:
    return (_logits(model, x, t) / temperature).softmax(1).amax(1)


def _energy(model: Any, x: Tensor, t: float, temperature: float) -> Tensor:
    return temperature * (_logits(model, x, t) / temperature).logsumexp(1)


def _mass(model: Any, x: Tensor, t: float, temperature: float) -> Tensor:
    length: Tensor = model.score(x, t).flatten(1).norm(dim=1)
    return -length


FAMILIARITY: Mapping[str, Callable[[Any, Tensor, float, float], Tensor]] = {
    "log-density": _log_density,
    "max-softmax": _max_softmax,
    "energy": _energy,
    "mass": _mass,
}
"""The scores by name."""


@torch.no_grad()
def familiarity(
    model: Model,
    x: Tensor,
    by: str = "log-density",
    t: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """How familiar each example is to a model, `(batch,)`, larger for more.

    Args:
        model: energy-based for `log-density`, an `EnergyClassifier` for `max-softmax` and `energy`.
        x: shape `(batch, *event)`.
        by: a name in `FAMILIARITY`.
        t: time; None for `t_min`, which stands for the data.
        temperature: T of `max-softmax` and `energy`, > 0.

    Raises:
        TypeError: for a model that does not have what the score is made of.
        ValueError: for an unknown score or a temperature that is not positive.

    Reference: Grathwohl et al. 2020, https://arxiv.org/abs/1912.03263, section 5.3 (density, mass);
    Hendrycks & Gimpel 2017, https://arxiv.org/abs/1610.02136 (softmax); Liu et al. 2020,
    https://arxiv.org/abs/2010.03759 (energy).
    """
    require_model(model, whole=False)
    require_choice("by", by, tuple(FAMILIARITY))
    require_positive(temperature=temperature)
    time = float(model.sde.t_min if t is None else t)
    return FAMILIARITY[by](model, as_batch("x", x), time, temperature)


def auroc(inside: Tensor, outside: Tensor) -> Interval:
    r"""Area under the ROC curve: the probability that an example inside scores above one outside.

    .. math:: A = P(S_{in} > S_{out}) + \tfrac12 P(S_{in} = S_{out}), \qquad
              se^2 = \frac{\mathrm{Var}(V_{10})}{n} + \frac{\mathrm{Var}(V_{01})}{m}

    with V the share of the other set that each example beats: DeLong's error, over both sets. It is
    0 where the sets do not overlap, which says little beyond that they are small.

    Args:
        inside: scores of n familiar examples, n at least 2.
        outside: scores of m others, m at least 2.

    Raises:
        ValueError: for fewer, or NaN.

    Reference: DeLong et al. 1988, https://doi.org/10.2307/2531595; by ranks Sun & Xu 2014,
    https://doi.org/10.1109/LSP.2014.2337313.
    """
    ours, others = _sorted("inside", inside), _sorted("outside", outside)
    beaten, lost = _share_below(ours, others), _share_below(others, ours)
    variance = beaten.var() / len(ours) + lost.var() / len(others)
    return Interval(float(beaten.mean()), math.sqrt(float(variance)))


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """Share of the sorted others that lie below each value, ties counted half."""
    sides = [torch.searchsorted(others, values, right=right) for right in (False, True)]
    return (sides[0] + sides[1]).double() / (2 * len(others))


def _sorted(name: str, scores: Tensor) -> Tensor:
    values = torch.as_tensor(scores).detach().cpu().double().flatten()
    require_count(2, **{f"number of scores {name}": len(values)})
    if bool(values.isnan().any()):
        raise ArgumentError(f"{name} has NaN among its scores; accepted: numbers and infinities")
    return values.sort().values


def _logits(model: object, x: Tensor, t: float) -> Tensor:
    if not isinstance(model, EnergyClassifier):
        raise ArgumentError(
            f"model is a {type(model).__name__}, which has no logits; accepted: an "
            "EnergyClassifier, or by='log-density' and by='mass'"
        )
    return model.logits(x, t)
