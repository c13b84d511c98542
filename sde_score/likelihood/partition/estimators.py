"""Estimators of log Z and its standard error from log weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sde_score._core.errors import NumericalError
from sde_score.likelihood.partition.annealing import ParticleRun, log_mean

_BISECTIONS = 1200  # from the ends of float64 to its rounding


class Measurement(NamedTuple):
    """A number with its standard error.

    Args:
        value: in nats.
        standard_error: of the value.
    """

    value: float
    standard_error: float


def exponential_average(log_weights: Tensor) -> Measurement:
    r"""log of the mean of independent weights, with the error of the delta method.

    .. math:: \log \bar w, \qquad se = \frac{sd(w)}{\bar w \sqrt n}

    By Jensen's inequality its expected value is at most log E[w], less by about se^2 / 2.

    Args:
        log_weights: `(n,)`, n at least 2.
    """
    scaled = (log_weights - log_weights.max()).exp()
    if not bool(scaled.isfinite().all()):
        return Measurement(float(log_mean(log_weights)), math.nan)
    error = scaled.std() / scaled.mean() / math.sqrt(len(log_weights))
    return Measurement(float(log_mean(log_weights)), float(error))


def negative(estimate: Measurement) -> Measurement:
    """Minus the value, with the same error."""
    return Measurement(-estimate.value, estimate.standard_error)


def effective_size(log_weights: Tensor) -> float:
    """Effective sample size, (sum w)^2 / sum w^2."""
    return float((2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp())


def bennett(forward: Tensor, reverse: Tensor) -> Measurement:
    r"""Bennett's acceptance ratio: the L at which the two sides agree,

    .. math:: \sum_{i=1}^{n} \mathrm{sigmoid}(a_i - L - M)
              = \sum_{i=1}^{m} \mathrm{sigmoid}(b_i + L + M), \qquad M = \log(n / m),

    the optimal bridge between two distributions, and its error by the delta method.

    Args:
        forward: a, log weights with E[exp a] = Z, `(n,)`, n at least 2.
        reverse: b, log weights of the reversed run with E[exp b] = 1 / Z, `(m,)`, m at least 2.

    Reference: Bennett 1976, https://doi.org/10.1016/0021-9991(76)90078-4; Meng & Wong 1996,
    https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n43/j6n43.htm.
    """
    n, m = len(forward), len(reverse)
    shift = math.log(n / m)

    def sides(value: float) -> tuple[Tensor, Tensor]:
        return (forward - value - shift).sigmoid(), (reverse + value + shift).sigmoid()

    ends = torch.cat([forward, -reverse])
    ends = ends[ends.isfinite()]
    if len(ends) == 0:
        return Measurement(math.nan, math.nan)
    low, high = float(ends.min()) - 50 - abs(shift), float(ends.max()) + 50 + abs(shift)
    # The difference of the sides falls in L, so halving the interval cannot fail.
    for _ in range(_BISECTIONS):
        if high - low <= 1e-12 * max(1.0, abs(low), abs(high)):
            break
        middle = 0.5 * (low + high)
        f, r = sides(middle)
        low, high = (middle, high) if bool(f.sum() > r.sum()) else (low, middle)
    else:
        raise NumericalError(f"Bennett's equation has no solution between {low:g} and {high:g}")
    f, r = sides(low)
    slope = (f * (1 - f)).sum() + (r * (1 - r)).sum()
    variance = n * f.var() + m * r.var()
    return Measurement(low, float(variance.sqrt() / slope))


def thermodynamic(walk: ParticleRun, betas: list[float]) -> Measurement:
    r"""The integral of the mean gap over the path, one estimate per population.

    .. math:: \log Z = -\int_0^1 \left\langle U \right\rangle_\beta d\beta
              \approx -\sum_j \frac{\Delta_j}{2} \left( \bar U_j + \bar U_{j+1} \right)
              + \frac{\Delta_j^2}{12} \left( V_j - V_{j+1} \right),
              \qquad U = \frac{dE_\beta}{d\beta}

    The second term, with the variances V, corrects the trapezoidal rule, as
    d<U>/d beta = -Var(U). The squared error is that of the mean over the populations plus a tenth
    of the correction, squared, for the error that remains.

    Raises:
        RuntimeError: if the mean energy is not finite somewhere on the path.

    Reference: Gelman & Meng 1998, https://doi.org/10.1214/ss/1028905934; Friel, Hurn & Wyse 2014,
    https://arxiv.org/abs/1209.3198, for the correction.
    """
    gaps, weights = torch.stack(walk.gaps), torch.stack(walk.weights)
    # Where a weight is zero the gap may be infinite.
    mean = torch.where(weights > 0, weights * gaps, 0.0).sum(2)
    variance = torch.where(weights > 0, weights * (gaps - mean[:, :, None]) ** 2, 0.0).sum(2)
    if not bool(mean.isfinite().all()):
        raise NumericalError(
            "the mean energy on the path is not finite, so thermodynamic integration has no value: "
            "use method='ais', or a start with the support of the density"
        )
    steps = torch.tensor(betas, dtype=torch.float64).diff()[:, None].to(mean)
    rule = -(steps / 2 * (mean[:-1] + mean[1:])).sum(0)
    correction = (steps**2 / 12 * (variance[:-1] - variance[1:])).sum(0)
    values = rule + correction
    error = values.std() / math.sqrt(len(values))
    spread = math.hypot(float(error), 0.1 * float(correction.mean()))
    return Measurement(float(values.mean()), spread)
