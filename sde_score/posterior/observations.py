r"""Observations: what was measured, y = A x0 + noise, and how probable it makes an example."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_positive, shown, sum_event
from sde_score._core.errors import ArgumentError
from sde_score.posterior.operators import Operator
from sde_score.posterior.physics import Physics, as_operator
from sde_score.posterior.solvers import conjugate_gradients
from sde_score.posterior.spectrum import Spectrum, dense


class Observation(ABC):
    """The likelihood of what was observed, as a function of the example behind it."""

    @abstractmethod
    def log_prob(self, x0: Tensor) -> Tensor:
        """log p(y | x0) in nats, shape `(batch,)`, for examples `(batch, *event)`."""

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Of the examples it is made of; None where it does not say."""
        operator = getattr(self, "operator", None)
        return None if operator is None else operator.event_shape


class LogLikelihood(Observation):
    """Any differentiable log-likelihood.

    Args:
        function: from `(batch, *event)` to log p(y | x0) of each example, shape `(batch,)`, up to a
            constant.

    Raises:
        TypeError: if it cannot be called.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        if not callable(function):
            raise ArgumentError(f"function={shown(function)} must be a function of examples")
        self.function = function

    @override
    def log_prob(self, x0: Tensor) -> Tensor:
        found = self.function(x0)
        if tuple(found.shape) != (len(x0),):
            raise ValueError(
                f"function returned shape {tuple(found.shape)}; accepted: one log-likelihood for "
                f"each example, ({len(x0)},)"
            )
        return found


class Poisson(Observation):
    r"""Counts, y ~ Poisson(gain (A x0 + offset)), as in photon imaging.

    Args:
        operator: A, or what `as_operator` takes.
        y: counts, shape `measured_shape`.
        gain: counts per unit, > 0.
        offset: added to A x0, so that rates are positive: 1 for data in [-1, 1]. Rates below
            `floor` count as that.
        floor: smallest rate in units, > 0.

    Raises:
        ValueError: for counts that are negative or of another shape.
    """

    def __init__(
        self,
        operator: Operator | Tensor | Any,
        y: Tensor,
        gain: float,
        offset: float = 0.0,
        floor: float = 1e-3,
    ) -> None:
        require_positive(gain=gain, floor=floor)
        self.operator = as_operator(operator)
        self.y = require_measured(self.operator, y)
        if not bool((self.y >= 0).all()):
            raise ValueError("y has negative counts")
        self.gain, self.offset, self.floor = gain, offset, floor

    @override
    def log_prob(self, x0: Tensor) -> Tensor:
        rate = self.gain * (self.operator(x0) + self.offset).clamp(min=self.floor)
        y = self.y.to(rate)
        return sum_event(y * rate.log() - rate - torch.lgamma(y + 1))


@dataclass(frozen=True, eq=False, repr=False)
class Spectral:
    """A linear measurement in coordinates that are measured one by one.

    With c = V^T x0, `value` is normal distributed about c with independent deviations `std`, and
    nothing is said of what has no coordinates.

    Args:
        spectrum: gives the coordinates of an example, r of them.
        value: float64 of shape `(r,)`.
        std: > 0, float64 of shape `(r,)`.
    """

    spectrum: Spectrum
    value: Tensor
    std: Tensor

    def to(self, x: Tensor) -> Spectral:
        """The same on the device of x."""
        return replace(self, value=self.value.to(x.device), std=self.std.to(x.device))

    def update(self, x: Tensor, spread: float, z: Tensor | None = None) -> Tensor:
        r"""What x0 ~ N(x, spread^2 I) is given y: its mean, or a draw of it.

        .. math:: p(x_0) \propto N(x_0; x, spread^2 I) \, p(y | x_0)

        Args:
            x: shape `(batch, *event_shape)`.
            spread: > 0.
            z: a standard normal draw, like x; None for the mean.
        """
        gain = 1 / (1 + (self.std / spread) ** 2)
        own = self.spectrum.of_event(x)
        c = own + gain.to(x) * (self.value.to(x) - own)
        if z is None:
            return self.spectrum.replace(x, c)
        c = c + (spread * (1 - gain).sqrt()).to(x) * self.spectrum.of_event(z)
        return self.spectrum.replace(x + spread * z, c)


class Measurement(Observation):
    r"""A linear measurement with Gaussian noise, y = A x0 + n, n ~ N(0, R).

    Args:
        operator: A, or what `as_operator` takes.
        y: what was measured, shape `measured_shape`.
        std: standard deviation of the noise: a number, or one for each entry of y, > 0; that of a
            `Physics` with Gaussian noise need not be given.
        covariance: R over flattened measurements, in place of `std`.

    Raises:
        ValueError: for y of another shape, both or none of `std` and `covariance`, or noise that is
            not positive.
    """

    def __init__(
        self,
        operator: Operator | Tensor | Any,
        y: Tensor,
        std: float | Tensor | None = None,
        covariance: Tensor | None = None,
    ) -> None:
        self.operator = as_operator(operator)
        self.y = require_measured(self.operator, y)
        if std is None and covariance is None and isinstance(self.operator, Physics):
            std = self.operator.std
        if (std is None) == (covariance is None):
            raise ValueError("give the noise as one of std and covariance")
        self.variance: Tensor | None = None
        self.factor: Tensor | None = None
        if std is not None:
            deviation = torch.as_tensor(std, dtype=torch.float64)
            if deviation.ndim and tuple(deviation.shape) != self.operator.measured_shape:
                raise ValueError(
                    f"std of shape {tuple(deviation.shape)} must be a number, or one for each "
                    f"entry of y, {self.operator.measured_shape}"
                )
            if not bool((deviation > 0).all()):
                raise ValueError(f"std={shown(std)} must be positive")
            self.variance = deviation**2
        else:
            matrix = torch.as_tensor(covariance, dtype=torch.float64)
            size = math.prod(self.operator.measured_shape)
            if tuple(matrix.shape) != (size, size):
                raise ValueError(
                    f"covariance of shape {tuple(matrix.shape)} must be {(size, size)}"
                )
            try:
                self.factor = torch.linalg.cholesky(matrix)
            except RuntimeError as error:
                raise ValueError("covariance is not positive definite") from error

    @property
    def scalar_variance(self) -> Tensor | None:
        """The variance of the noise where it is the same for all entries and they are independent;
        else None."""
        return self.variance if self.variance is not None and not self.variance.ndim else None

    @property
    def noise_root(self) -> Tensor:
        """Lower triangular L with R = L L^T over flattened measurements, float64."""
        if self.factor is not None:
            return self.factor
        deviations = self.variance.sqrt().expand(self.operator.measured_shape)  # type: ignore[union-attr]
        return torch.diag(deviations.flatten())

    def residual(self, x0: Tensor) -> Tensor:
        """y - A x0, shape `(batch, *measured_shape)`."""
        return self.y.to(x0) - self.operator(x0)

    def noise(self, u: Tensor) -> Tensor:
        """R u, for u of shape `(batch, *measured_shape)`."""
        if self.variance is not None:
            return self.variance.to(u) * u
        factor = self.factor.to(u)  # type: ignore[union-attr]
        return (u.flatten(1) @ factor @ factor.T).reshape(u.shape)

    def whiten(self, u: Tensor) -> Tensor:
        """R^-1 u, for u of shape `(batch, *measured_shape)`."""
        if self.variance is not None:
            return u / self.variance.to(u)
        factor = self.factor.to(u)  # type: ignore[union-attr]
        return torch.cholesky_solve(u.flatten(1).T, factor).T.reshape(u.shape)

    def solve(self, u: Tensor, signal: Tensor | float) -> Tensor:
        """(R + signal A A^T)^-1 u, in closed form or by conjugate gradients.

        Args:
            u: shape `(batch, *measured_shape)`.
            signal: >= 0, a number or one for each example, shape `(batch,)`.
        """
        spread = torch.as_tensor(signal).to(u)
        if self.scalar_variance is not None:
            closed = self.operator.solve_gram(u, self.scalar_variance, spread)
            if closed is not None:
                return closed
        spread = expand_like(spread, u)

        def apply(v: Tensor) -> Tensor:
            return self.noise(v) + spread * self.operator.forward(self.operator.adjoint(v))

        return conjugate_gradients(apply, u)

    @cached_property
    def spectral(self) -> Spectral:
        """What y says of each coordinate of x0 alone, by singular value decomposition.

        Of the operator, where its measured coordinates have independent noise: of one deviation, or
        of one for each entry of a mask. Else of the matrix of R^-1/2 A.

        Raises:
            ValueError: if a matrix that is needed does not fit in memory.
        """
        return self._independent or self._whitened

    @property
    def _independent(self) -> Spectral | None:
        """In the operator's own coordinates, where R is diagonal in them."""
        if self.scalar_variance is None and self.operator.closed is None:
            return None
        spectrum = self.operator.spectrum
        ones = torch.ones(1, len(spectrum.singular), dtype=torch.float64)
        variance = spectrum.of_measured(self.noise(spectrum.to_measured(ones)))
        probe = torch.linspace(1, 2, ones.shape[1], dtype=torch.float64)[None]
        turned = self.noise(spectrum.to_measured(probe))
        if not torch.allclose(turned, spectrum.to_measured(variance * probe), rtol=1e-6):
            return None
        value = spectrum.of_measured(self.y.double().cpu()[None])
        return Spectral(
            spectrum, value[0] / spectrum.singular, variance[0].sqrt() / spectrum.singular
        )

    @property
    def _whitened(self) -> Spectral:
        """Of the operator R^-1/2 A, whose noise has deviation 1."""
        operator, factor = self.operator, self.factor
        if self.variance is not None:
            factor = self.variance.sqrt().flatten().diag()
        white = torch.linalg.solve_triangular(
            factor, torch.cat([operator.matrix, self.y.double().reshape(-1, 1)], 1), upper=False
        )
        shapes = operator.event_shape, operator.measured_shape
        spectrum = dense(white[:, :-1], *shapes, operator.precision)
        value = spectrum.of_measured(white[:, -1].reshape(1, *operator.measured_shape))
        return Spectral(spectrum, value[0] / spectrum.singular, 1 / spectrum.singular)

    @override
    def log_prob(self, x0: Tensor) -> Tensor:
        residual = self.residual(x0)
        count = math.prod(self.operator.measured_shape)
        if self.variance is not None:
            logs = self.variance.log().expand(self.operator.measured_shape).sum()
        else:
            logs = 2 * self.factor.diagonal().log().sum()  # type: ignore[union-attr]
        constant = (logs + count * math.log(2 * math.pi)).to(residual)
        return -0.5 * (sum_event(residual * self.whiten(residual)) + constant)


def require_observation(observation: object) -> None:
    """Refuse what is no observation.

    Raises:
        TypeError: naming what is accepted.
    """
    if not isinstance(observation, Observation):
        raise ArgumentError(
            f"observation={shown(observation)}; accepted: a Measurement(operator, y, std), a "
            "Poisson or a LogLikelihood"
        )


def as_measurement(observation: Observation, method: str) -> Measurement:
    """The observation of a method for linear measurements with Gaussian noise.

    Raises:
        TypeError: for any other, naming the method.
    """
    if not isinstance(observation, Measurement):
        raise ArgumentError(
            f"observation={shown(observation)}: {method} needs a Measurement(operator, y, std), "
            "linear with Gaussian noise; for others take c-dps or lgd-mc"
        )
    return observation


def require_measured(operator: Operator, y: Tensor) -> Tensor:
    """Refuse an observation that the operator does not make.

    Raises:
        ValueError: for another shape, or numbers that are not finite.
    """
    y = torch.as_tensor(y)
    if tuple(y.shape) != operator.measured_shape:
        raise ValueError(
            f"y of shape {tuple(y.shape)} is not what the operator measures, "
            f"{operator.measured_shape}"
        )
    if not bool(torch.isfinite(y).all()):
        raise ValueError("y is not finite")
    return y
