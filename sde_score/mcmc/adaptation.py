r"""Adaptation in a warm-up: dual averaging of step sizes, and diagonal masses from variances.

Each chain has its own step size and its own mass, made from its own history alone.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sde_score.mcmc.kernel import Kernel, State, Transition


class DualAveraging:
    r"""Dual averaging: steers the log step size of each chain to a mean acceptance.

    .. math:: \bar H_m = \Big(1 - \frac{1}{m + t_0}\Big) \bar H_{m-1}
              + \frac{\delta - a_m}{m + t_0}, \qquad
              \log h_m = \mu - \frac{\sqrt m}{\gamma} \bar H_m

    with delta the target, a_m the acceptance at step m, mu = log(10 h_0), gamma = 0.05 and
    t_0 = 10. The step size after the warm-up is the average of log h_m with weights m^-0.75.

    Args:
        step_size: h_0 of each chain, `(chains,)`.
        target: delta, in (0, 1).

    Reference: Hoffman & Gelman 2014, https://arxiv.org/abs/1111.4246, algorithm 5.
    """

    gamma, offset, kappa = 0.05, 10.0, 0.75

    def __init__(self, step_size: Tensor, target: float) -> None:
        self.target = target
        self.step_size = step_size
        self._center = (10 * step_size).log()
        self._error = torch.zeros_like(step_size)
        self._log_average = torch.zeros_like(step_size)
        self._count = 0

    @property
    def average(self) -> Tensor:
        """The step size to keep, `(chains,)`: h_0 before the first update."""
        return self._log_average.exp() if self._count else self.step_size

    def update(self, acceptance: Tensor) -> None:
        """Record the acceptance of one step, `(chains,)`."""
        self._count += 1
        m = self._count
        share = 1 / (m + self.offset)
        self._error = (1 - share) * self._error + share * (self.target - acceptance)
        log_step = self._center - m**0.5 / self.gamma * self._error
        weight = m**-self.kappa
        self._log_average = weight * log_step + (1 - weight) * self._log_average
        self.step_size = log_step.exp()


class RunningVariance:
    r"""Welford's mean and variance of each entry of each chain.

    The variance is drawn towards 10^-3 as by five draws, so that no mass is infinite:

    .. math:: v = \frac{n\, s^2 + 5 \cdot 10^{-3}}{n + 5}

    Args:
        like: positions `(chains, *event)`.

    Reference: Welford 1962, https://doi.org/10.1080/00401706.1962.10490022.
    """

    def __init__(self, like: Tensor) -> None:
        self._count = 0
        self._mean = torch.zeros_like(like)
        self._squares = torch.zeros_like(like)

    def update(self, x: Tensor) -> None:
        """Record one draw of each chain."""
        self._count += 1
        before = x - self._mean
        self._mean = self._mean + before / self._count
        self._squares = self._squares + before * (x - self._mean)

    def variance(self) -> Tensor:
        """The regularized variance, like x."""
        n = self._count
        sample = self._squares / max(n - 1, 1)
        return (n * sample + 5e-3) / (n + 5)


def mass_windows(warmup: int) -> list[int]:
    """Steps of a warm-up after which the mass is renewed, from a list of windows that double.

    The windows lie between a first part, in which chains reach the target, and a last one, in which
    the step size alone is adapted: 75 and 50 steps, or 15 % and 10 % of a warm-up below 150. The
    first window has 25 steps and the last takes in what would be left over. Below 20 steps: none.

    Returns:
        the first part's end, then each window's; the first entry only starts the collection.
    """
    if warmup < 20:
        return []
    first, window, last = 75, 25, 50
    if warmup < first + window + last:
        first, last = int(0.15 * warmup), int(0.1 * warmup)
        window = warmup - first - last
    ends, end = [first], first
    for _ in range(warmup.bit_length()):  # windows double
        if end >= warmup - last:
            break
        end += window
        window *= 2
        if end + window > warmup - last:
            end = warmup - last
        ends.append(end)
    return ends


class Warmup:
    """Tunes a kernel while its chains run; `tuning` is the one to use next.

    Args:
        kernel: the kernel to tune.
        x: positions at the start, `(chains, *event)`.
        steps: length of the warm-up.
        step_size: adapt the step size; of adjusted kernels only, since the others accept all.
        mass: adapt the mass to temperature / variance, entry by entry.
    """

    def __init__(self, kernel: Kernel, x: Tensor, steps: int, step_size: bool, mass: bool) -> None:
        self._kernel, self._steps, self._done = kernel, steps, 0
        self.tuning = kernel.tuning(x)
        self._averaging: DualAveraging | None = None
        if steps and step_size and kernel.adjusted and not kernel.discrete:
            each = self.tuning.step_size.expand(x.shape[0]).clone()
            self._averaging = DualAveraging(each, kernel.target_acceptance)
        self._windows = mass_windows(steps) if mass else []
        self._variance = RunningVariance(x)

    def update(self, transition: Transition) -> State:
        """Learn from a step; returns the state to go on from.

        The state is the transition's, with momenta rescaled where the mass has changed, so that
        their distribution is still N(0, temperature mass).
        """
        state = transition.state
        self._done += 1
        if self._averaging is not None:
            self._averaging.update(transition.acceptance)
            self.tuning = replace(self.tuning, step_size=self._averaging.step_size)
        if self._windows:
            state = self._collect(state)
        if self._averaging is not None and self._done == self._steps:
            self.tuning = replace(self.tuning, step_size=self._averaging.average)
        return state

    def _collect(self, state: State) -> State:
        if self._windows[0] < self._done <= self._windows[-1]:
            self._variance.update(state.x)
        if self._done not in self._windows:
            return state
        if self._done > self._windows[0]:
            state = self._renew_mass(state)
        self._variance = RunningVariance(state.x)
        return state

    def _renew_mass(self, state: State) -> State:
        mass = self._kernel.temperature / self._variance.variance()
        old, self.tuning = self.tuning.mass, replace(self.tuning, mass=mass)
        if self._averaging is not None:
            self._averaging = DualAveraging(self._averaging.average, self._averaging.target)
            self.tuning = replace(self.tuning, step_size=self._averaging.step_size)
        if state.momentum is None:
            return state
        ratio = mass if old is None else mass / old
        return replace(state, momentum=state.momentum * ratio.sqrt())


def require_tunable(kernel: Kernel, adapt_mass: bool) -> None:
    """Refuse to adapt a mass that the kernel does not have.

    Raises:
        ValueError: if it has none.
    """
    if adapt_mass and not kernel.uses_mass:
        raise ValueError(
            f"adapt_mass=True, but {type(kernel).__name__} has no mass; accepted: a kernel with "
            "momentum, such as hmc, or adapt_mass=False"
        )
