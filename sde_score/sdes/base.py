r"""The contract of a forward diffusion, and everything that follows from its two scales.

A linear Gaussian diffusion carries data x_0 to noise,

.. math:: dx = f(t)\, x\, dt + g(t)\, dw, \qquad x_t \mid x_0 \sim N(\alpha(t) x_0, \sigma(t)^2 I),

and is fixed by alpha and sigma alone:

.. math:: f = \alpha' / \alpha, \qquad g^2 = 2 \sigma \sigma' - 2 f \sigma^2 .

A new SDE is a class with `alpha` and `sigma`, each marked `@of_time`. By default their derivatives
are taken by autograd and the inverse of the log signal-to-noise ratio by bisection; closed forms
are faster and may be given instead. Time runs from data to noise: noise grows with t.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

from sde_score._core.checks import (
    as_time,
    expand_like,
    require_batch,
    require_count,
    require_shape,
    sum_event,
)
from sde_score._core.registry import Registry

Field = Callable[[Tensor, Tensor], Tensor]
"""A vector field `(x, t) -> x-like`, such as a score or a drift."""

S = TypeVar("S", bound="SDE")

_SLACK = 1e-6  # relative; float32 times may round past the ends of the range
_LOG_SNR_SLACK = 1e-9  # noise ratios computed at the ends of the range may round past them
_BISECTIONS = 64


def of_time(formula: Callable[[S, Tensor], Tensor]) -> Callable[[S, Tensor | float], Tensor]:
    """Turn a formula in t into a method that checks t and computes in float64.

    The result has the dtype of `t`, so that near `t_min` a float32 caller sees float64 accuracy,
    rounded once.
    """

    @functools.wraps(formula)
    def evaluate(self: S, t: Tensor | float) -> Tensor:
        t = self.check_time(t)
        return formula(self, t.double()).to(t.dtype)

    return evaluate


@dataclass(frozen=True)
class Prior:
    """The normal distribution N(0, std^2 I) from which sampling starts.

    Args:
        shape: `(batch, *event)`.
        std: standard deviation of every entry, > 0.
    """

    shape: tuple[int, ...]
    std: float

    def sample(
        self,
        generator: Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """One draw of the whole batch, of shape `shape`."""
        return torch.randn(self.shape, generator=generator, dtype=dtype, device=device) * self.std

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of each example in nats, shape `(batch,)`.

        Raises:
            ValueError: if the event shape of `x` is not the prior's.
        """
        if x.shape[1:] != self.shape[1:]:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}, the prior has {self.shape[1:]}"
            )
        constant = math.log(2 * math.pi * self.std**2)
        return -0.5 * sum_event((x / self.std) ** 2 + constant)


class SDE(ABC):
    """A linear Gaussian diffusion: immutable, printable, comparable (subclasses are frozen
    dataclasses).

    `alpha` and `sigma` are enough. Every `t` is a Python number, a scalar tensor or a tensor of
    shape `(batch,)`, in `[t_min, t_max]`. A subclass whose range or prior differs from the defaults
    assigns `t_min`, `t_max`, `sampling_t_min`, `native_grid` or `prior_std`, as class attributes
    or as properties.
    """

    @property
    def t_min(self) -> float:
        """Smallest time at which the score is trained and likelihoods are computed."""
        return 1e-5

    @property
    def t_max(self) -> float:
        """Time at which sampling starts."""
        return 1.0

    @abstractmethod
    def alpha(self, t: Tensor | float) -> Tensor:
        """Signal scale alpha(t) of the perturbation kernel, in the shape of t."""

    @abstractmethod
    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise scale sigma(t) of the perturbation kernel, in the shape of t."""

    @of_time
    def alpha_derivative(self, t: Tensor) -> Tensor:
        """d alpha / dt, in the shape of t; by forward-mode autograd."""
        return _derivative(self.alpha, t)

    @of_time
    def sigma_derivative(self, t: Tensor) -> Tensor:
        """d sigma / dt, in the shape of t; by forward-mode autograd."""
        return _derivative(self.sigma, t)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr` in float64, by bisection; differentiable in `log_snr`.

        `time_of_log_snr` bounds the result and calls this for values up to 1 beyond the range.
        """
        wanted = log_snr.detach().flatten()
        low, high = torch.full_like(wanted, self.t_min), torch.full_like(wanted, self.t_max)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            early = self.log_snr(middle) > wanted
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        t = 0.5 * (low + high)
        if log_snr.requires_grad:  # by the implicit function theorem: dt = d log_snr / slope
            t = t + (log_snr.flatten() - wanted) / _derivative(self.log_snr, t)
        return t.reshape(log_snr.shape)

    @property
    def sampling_t_min(self) -> float:
        """Time at which samplers stop and take the denoised mean; at least `t_min`."""
        return self.t_min

    @property
    def native_grid(self) -> str:
        """Name of the time grid that suits this clock; samplers use it unless told otherwise."""
        return "uniform"

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior, the distribution that stands for x at `t_max`."""
        return float(self.sigma(self.t_max))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """Smallest and largest log signal-to-noise ratio, at `t_max` and at `t_min`."""
        return float(self.log_snr(self.t_max)), float(self.log_snr(self.t_min))

    def check_time(self, t: Tensor | float) -> Tensor:
        """Return t as a tensor, or refuse it.

        Shapes are checked everywhere; values on the CPU only, since looking at a value on another
        device would make the host wait for it.

        Raises:
            ValueError: if t is neither scalar nor `(batch,)`, is not a number, or lies outside the
                range.
        """
        t = as_time(t)
        if t.ndim > 1:
            raise ValueError(f"t has shape {tuple(t.shape)}; accepted: a scalar or (batch,)")
        if t.device.type == "cpu" and t.numel() and not torch.compiler.is_compiling():
            low, high = torch.aminmax(t.detach())
            slack = _SLACK * self.t_max
            if not (low >= self.t_min * (1 - _SLACK) and high <= self.t_max + slack):
                span = f"{float(low):.6g}" + (f"..{float(high):.6g}" if low != high else "")
                fix = (
                    ": t is continuous, and index i of n has the time sde.discrete_times(n)[i]"
                    if high > self.t_max
                    else ": t_min stands for the data"
                    if low < self.t_min
                    else ""
                )
                raise ValueError(
                    f"t={span} leaves [{self.t_min:g}, {self.t_max:g}], the times of {self}{fix}"
                )
        return t

    @of_time
    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t) = log(alpha^2 / sigma^2), strictly decreasing in t, in the shape of t."""
        return 2.0 * torch.log(self.alpha(t) / self.sigma(t))

    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """The time at which log(alpha^2 / sigma^2) takes a given value.

        Args:
            log_snr: any shape; values beyond the ends of the range give the ends.
        """
        value = as_time(log_snr)
        low, high = self.log_snr_range
        near = value.double().clamp(low - 1, high + 1)  # the inverse overflows far outside
        t = self._time_of_log_snr(near).clamp(self.t_min, self.t_max)
        return t.to(value.dtype)

    @of_time
    def noise_ratio(self, t: Tensor) -> Tensor:
        """s(t) = sigma / alpha, strictly increasing in t, in the shape of t."""
        return torch.exp(-0.5 * self.log_snr(t))

    def time_of_noise_ratio(self, ratio: Tensor | float, *, strict: bool = False) -> Tensor:
        """The time at which sigma / alpha takes a given value.

        Args:
            ratio: any shape, > 0; values beyond the ends of the range give the ends.
            strict: refuse values beyond the ends, where models know nothing.

        Raises:
            ValueError: if `strict` and a value lies outside the range.
        """
        log = torch.log(ratio) if isinstance(ratio, Tensor) else as_time(math.log(ratio))
        if strict:
            self._require_reached(-2 * log)
        return self.time_of_log_snr(-2 * log)

    def _require_reached(self, log_snr: Tensor) -> None:
        low, high = self.log_snr_range
        least, most = (float(value) for value in torch.aminmax(log_snr))
        if not (least >= low - _LOG_SNR_SLACK and most <= high + _LOG_SNR_SLACK):
            given, reached = (
                " to ".join(f"{math.exp(-0.5 * value):.6g}" for value in ends)
                for ends in ((most, least), (high, low))
            )
            raise ValueError(
                f"noise levels from {given} leave those of {self}, whose sigma / alpha runs from "
                f"{reached}: choose levels in between"
            )

    @of_time
    def drift_rate(self, t: Tensor) -> Tensor:
        """f(t) = alpha' / alpha, in the shape of t."""
        return self.alpha_derivative(t) / self.alpha(t)

    @of_time
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t) = sqrt(2 sigma sigma' - 2 f sigma^2), in the shape of t."""
        sigma = self.sigma(t)
        return (2 * sigma * (self.sigma_derivative(t) - self.drift_rate(t) * sigma)).sqrt()

    def drift(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Forward drift f(t) x, in the shape of x."""
        return expand_like(self.drift_rate(t), x) * x

    def marginal(self, x0: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean alpha x0 (shape of x0) and standard deviation sigma (shape of t) of x_t given x0."""
        require_batch("x0", x0)
        return expand_like(self.alpha(t), x0) * x0, self.sigma(t)

    def perturb(self, x0: Tensor, t: Tensor | float, noise: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma noise.

        Raises:
            ValueError: if `noise` does not have the shape of `x0`.
        """
        if noise.shape != x0.shape:
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}, x0 has {tuple(x0.shape)}: they must agree"
            )
        mean, std = self.marginal(x0, t)
        return mean + expand_like(std, x0) * noise

    def transition(self, s: Tensor | float, t: Tensor | float) -> tuple[Tensor, Tensor]:
        r"""Exact kernel between two times s <= t: x_t | x_s ~ N(scale x_s, std^2 I).

        .. math:: scale = \alpha_t / \alpha_s, \qquad
                  std^2 = \sigma_t^2 (1 - e^{\lambda_t - \lambda_s})

        Returns:
            scale and std, in the common shape of s and t, in the dtype of t.

        Raises:
            ValueError: if s > t somewhere (checked on the CPU).
        """
        s, t = self.check_time(s), self.check_time(t)
        if s.device.type == t.device.type == "cpu" and bool((s > t).any()):
            raise ValueError(f"transition runs forward in time: s={s} must not exceed t={t}")
        early, late = s.double(), t.double()
        scale = self.alpha(late) / self.alpha(early)
        std = self.sigma(late) * (-torch.expm1(self.log_snr(late) - self.log_snr(early))).sqrt()
        return scale.to(t.dtype), std.to(t.dtype)

    def prior(self, shape: Sequence[int]) -> Prior:
        """The prior N(0, prior_std^2 I) of shape `(batch, *event)`, in place of x at `t_max`."""
        return Prior(require_shape("shape", shape, "(batch, *event)"), self.prior_std)

    def reverse(self, score: Field) -> Field:
        r"""Drift of the reverse-time SDE, f x - g^2 score (written for increasing t; the noise is
        g dw).

        Reference: Anderson 1982, https://doi.org/10.1016/0304-4149(82)90051-5.
        """
        return lambda x, t: self._backward_drift(x, t, score(x, t), share=1.0)

    def probability_flow(self, score: Field) -> Field:
        r"""Drift of the ODE with the same marginals, f x - g^2 score / 2.

        Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, eq. 13.
        """
        return lambda x, t: self._backward_drift(x, t, score(x, t), share=0.5)

    def _backward_drift(self, x: Tensor, t: Tensor | float, score: Tensor, share: float) -> Tensor:
        return self.drift(x, t) - expand_like(share * self.diffusion(t) ** 2, x) * score

    def discrete_times(self, n: int) -> Tensor:
        """The times of n noisy states, evenly spaced up to `t_max`, increasing, float64 `(n,)`."""
        require_count(n=n)
        return torch.linspace(self.t_min, self.t_max, n + 1, dtype=torch.float64)[1:]


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """d function / dt at each entry of t, whatever the mode of autograd around it."""
    t = t.contiguous()  # an expanded tensor has no room for a tangent
    with torch.inference_mode(False):
        slope: Tensor = torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]
    return slope


SDES: Registry[SDE] = Registry("SDE", base=SDE)
"""The diffusions by name; filled in `sde_score.sdes`."""
