r"""Coefficients of a multistep method, fitted to a model by a sketched Gauss-Newton method.

The coefficients c_k and b_kj of `fixed_step.fitted` and the noise ratios, all together theta,
minimize over starts, of which sample i ends with the residual r_i in d dimensions,

.. math:: L_p(\theta) = \tfrac{p}{2} \log \overline{e^2} + \tfrac{1 - p}{2}\, \overline{\log e^2},
          \qquad e_i^2 = \tfrac1d \lVert r_i(\theta) \rVert^2,

first with p = 0, the logarithm of the typical error, and then with p = 1/2, that of the geometric
mean of it and the root mean square, which few starts near a boundary between modes rule. A step
solves

.. math:: (H + \mu\, diag H)\, \delta = - \sum_i w_i J_i^T r_i, \qquad
          H = \sum_i w_i J_i^T S_i S_i^T J_i, \qquad
          w_i = \frac{1}{d}\, \frac{\partial L_p}{\partial e_i^2},

with J_i the derivative of r_i. The probes S_i are the direction of the residual and a few random
ones across it, E[S S^T] = I, so that the rows J^T S take a few backward passes, however many
coefficients there are; the gradient is exact. mu falls after each step that helps, and grows until
one does (Levenberg-Marquardt).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from sde_score._core.checks import expand_like
from sde_score._core.conditions import Condition, rows_of
from sde_score._core.progress import progress_bar
from sde_score.models import Model
from sde_score.random import generator_from
from sde_score.samplers.fixed_step.fitted import Fitted
from sde_score.samplers.grids import NoiseRatios
from sde_score.samplers.tuning.search import Starts

_PROBES = 3  # random ones per start
_CHUNK = 64  # starts whose activations are held at once
_FLOOR = 1e-8  # of the errors, so that the logarithm of a perfect one is finite
_TRIALS = 8  # of mu in one step
_JUDGED = 0.2  # p on the starts held out, whose root mean square one start at a boundary rules
_SMALL, _PATIENCE = 1e-3, 5  # a gain too small, and how often in a row


def count_coefficients(steps: int) -> int:
    """How many numbers are fitted for so many steps."""
    return steps * (steps + 1) // 2 + 2 * steps - 1


@dataclass(frozen=True, eq=False)
class _Trace:
    """A sampling run: states y and denoised means before each step, and the end."""

    states: list[Tensor]
    means: list[Tensor]
    end: Tensor


@dataclass(frozen=True, eq=False)
class _Theta:
    """The coefficients as one float64 vector: factors on the state, on the means at `pairs` of step
    and evaluation, and the logarithms of all noise ratios but the first.

    Args:
        values: shape `(coefficients,)`.
        steps: n.
        first: logarithm of the first noise ratio.
    """

    values: Tensor
    steps: int
    first: float

    @classmethod
    def of(cls, sampler: Fitted) -> _Theta:
        """The coefficients of a sampler, with zeros where its steps look back less far."""
        grid, steps = sampler.time_grid, sampler.steps
        if not isinstance(grid, NoiseRatios):
            raise TypeError(f"grid is a {type(grid).__name__}; accepted: NoiseRatios")
        weights = [
            row[1 + k - j] if 1 + k - j < len(row) else 0.0
            for k, row in enumerate(sampler.rows)
            for j in range(k + 1)
        ]
        logs = [math.log(ratio) for ratio in grid.ratios]
        carry = [row[0] for row in sampler.rows]
        values = torch.tensor([*carry, *weights, *logs[1:]], dtype=torch.float64)
        return cls(values, steps, logs[0])

    def plus(self, change: Tensor) -> _Theta:
        """Moved by a change of the values."""
        return _Theta(self.values + change, self.steps, self.first)

    @property
    def carry(self) -> list[float]:
        """c_k."""
        values: list[float] = self.values[: self.steps].tolist()
        return values

    @property
    def weights(self) -> list[dict[int, float]]:
        """Of each step, b_kj by the evaluation j."""
        rest = iter(self.values[self.steps :].tolist())
        return [{j: next(rest) for j in range(k + 1)} for k in range(self.steps)]

    @property
    def log_ratios(self) -> Tensor:
        """log sigma / alpha of the evaluations, shape `(steps,)`."""
        later = self.values[len(self.values) - self.steps + 1 :]
        return torch.cat([later.new_tensor([self.first]), later])

    def sampler(self) -> Fitted:
        """The sampler that has them."""
        rows = tuple(
            (c, *(row[j] for j in sorted(row, reverse=True)))
            for c, row in zip(self.carry, self.weights, strict=True)
        )
        grid = NoiseRatios(tuple(self.log_ratios.exp().tolist()))
        return Fitted(self.steps, grid, rows=rows)


@dataclass(eq=False)
class _Fit:
    """Errors of coefficients over starts, and their derivatives."""

    model: Model
    generator: torch.Generator
    share: float = 0.0

    def pieces(self, starts: Starts) -> Iterator[tuple[Tensor, Tensor, Condition]]:
        """The batches in smaller ones, the starts as y = x / alpha."""
        alpha = float(self.model.sde.alpha(self.model.sde.t_max))
        for x, end, condition in starts.batches:
            for first in range(0, len(x), _CHUNK):
                part = slice(first, first + _CHUNK)
                yield x[part] / alpha, end[part], rows_of(condition, part)

    def mean(self, y: Tensor, log_ratio: Tensor, condition: Condition) -> Tensor:
        """x0_hat at y, the logarithm of the noise ratio a scalar or one per start."""
        t = self.model.sde.time_of_log_snr(-2 * log_ratio)
        alpha = self.model.sde.alpha(t)
        return self.model.denoise(expand_like(alpha, y) * y, t.to(y.device), condition)

    @torch.no_grad()
    def trace(self, theta: _Theta, y: Tensor, condition: Condition) -> _Trace:
        """The run from y."""
        states, means = [], []
        carry, weights, log_ratios = theta.carry, theta.weights, theta.log_ratios
        for k in range(theta.steps):
            states.append(y)
            means.append(self.mean(y, log_ratios[k], condition))
            y = carry[k] * y
            for j, weight in weights[k].items():
                y.add_(means[j], alpha=weight)
        return _Trace(states, means, y)

    def loss(self, theta: _Theta, starts: Starts) -> float:
        """L_p; infinite where the noise ratios do not fall, or the run overflows."""
        if bool((theta.log_ratios.diff() >= 0).any()):
            return math.inf
        squares = []
        for y, end, condition in self.pieces(starts):
            residual = self.trace(theta, y, condition).end - end
            squares.append(residual.flatten(1).double().square().mean(1))
        square = torch.cat(squares)
        typical = (square + _FLOOR**2).log().mean()
        value = torch.lerp(typical, square.mean().log(), self.share).item() / 2
        return value if math.isfinite(value) else math.inf

    def within(self, theta: _Theta) -> _Theta:
        """The same, its last noise ratio not below the least that the model is sampled at."""
        sde, values = self.model.sde, theta.values.clone()
        values[-1] = torch.maximum(values[-1], sde.noise_ratio(sde.sampling_t_min).log())
        return _Theta(values, theta.steps, theta.first) if theta.steps > 1 else theta

    def equations(self, theta: _Theta, starts: Starts) -> tuple[Tensor, Tensor]:
        """H and half the gradient of L_p, float64 on the CPU."""
        found, count, total = [], 0, 0.0
        for y, end, condition in self.pieces(starts):
            trace = self.trace(theta, y, condition)
            residual = (trace.end - end).flatten(1)
            probes = self._probes(residual)
            rows = self._rows(theta, trace, probes, condition).cpu()
            found.append((rows, *(part.double().cpu() for part in (residual, probes))))
            count, total = count + len(y), total + found[-1][1].square().mean(1).sum().item()
        size = theta.values.new_zeros(len(theta.values))
        matrix, gradient = torch.outer(size, size), size.clone()
        for rows, residual, probes in found:
            square = residual.square().mean(1)
            weight = self.share / total + (1 - self.share) / (count * (square + _FLOOR**2))
            weight = weight / (2 * residual.shape[1])
            whole = len(probes) == residual.shape[1]
            # A unit vector per dimension; or the residual's direction, and the mean of the others.
            shares = [1.0] * len(probes) if whole else [1.0] + [1 / _PROBES] * _PROBES
            along = (probes * residual).sum(2)
            for share, row, part in zip(shares, rows, along, strict=True):
                matrix += share * (row * weight[:, None]).mT @ row
                gradient += row.mT @ (weight * part)
        return matrix, gradient

    def _probes(self, residual: Tensor) -> Tensor:
        """S of each start, shape `(probes, starts, d)`: their inner products with the residual are
        all of it."""
        dimensions = residual.shape[1]
        if dimensions <= _PROBES + 1:
            unit = torch.eye(dimensions).to(residual)
            return unit[:, None].expand(-1, len(residual), -1)
        along = residual / residual.norm(dim=1, keepdim=True).clamp(min=1e-30)
        shape = (_PROBES, *residual.shape)
        across = torch.randn(shape, generator=self.generator, dtype=torch.float64).to(residual)
        across = across - (across * along).sum(2, keepdim=True) * along
        return torch.cat([along[None], across])

    def _rows(self, theta: _Theta, trace: _Trace, probes: Tensor, condition: Condition) -> Tensor:
        """J^T S of each start, float64 `(probes, starts, coefficients)`, from the last step back:
        the network is evaluated again at each, and its graph kept for this step alone."""
        steps, carry, weights = theta.steps, theta.carry, theta.weights
        back = probes.reshape(len(probes), *trace.end.shape)  # to the state after step k
        to_means: dict[int, Tensor] = {}
        of_carry, of_weights, of_ratio = [], [], []
        for k in reversed(range(steps)):
            of_carry.append(_inner(back, trace.states[k]))
            of_weights += [_inner(back, trace.means[j]) for j in reversed(weights[k])]
            for j, weight in weights[k].items():
                to_means[j] = to_means.get(j, 0.0) + weight * back
            pulled, slope = self._pulled(
                trace.states[k], theta.log_ratios[k], to_means.pop(k), condition
            )
            back = carry[k] * back + pulled
            of_ratio.append(slope)
        columns = [*reversed(of_carry), *reversed(of_weights), *reversed(of_ratio[:-1])]
        return torch.stack([column.double() for column in columns], 2)

    def _pulled(
        self, y: Tensor, log_ratio: Tensor, probes: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """Derivatives of the denoised mean times probes: in y, and in the logarithm of the noise
        ratio, `(probes, starts)`; zero where the model does not depend on it by a gradient."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            times = log_ratio.expand(len(y)).clone().requires_grad_()
            mean = self.mean(y, times, condition)
            in_state, in_time = [], []
            for i, probe in enumerate(probes):
                kept = i < len(probes) - 1
                found = torch.autograd.grad(
                    mean, (y, times), probe.to(mean), retain_graph=kept, allow_unused=True
                )
                in_state.append(torch.zeros_like(y) if found[0] is None else found[0])
                in_time.append(torch.zeros_like(times) if found[1] is None else found[1])
        return torch.stack(in_state), torch.stack(in_time).to(y.device)


def _inner(probes: Tensor, values: Tensor) -> Tensor:
    """Inner products over the event, shape `(probes, starts)`."""
    return (probes * values).flatten(2).sum(2)


def fit_coefficients(
    model: Model,
    sampler: Fitted,
    fit: Starts,
    held: Starts,
    *,
    iterations: int = 60,
    shares: tuple[float, ...] = (0.0, 0.5),
    until: float = math.inf,
    seed: int = 0,
    progress: bool = False,
) -> Fitted:
    """Fit all coefficients and noise ratios of a sampler, from where they are.

    Args:
        model: whose flow carried the starts, frozen; its means must be differentiable.
        sampler: where the fit begins; see `linear_form`.
        fit: starts whose errors are lowered.
        held: starts that decide which iterate is kept.
        iterations: at most so many, for all shares together.
        shares: the values of p, one after the other.
        until: the clock `time.monotonic` at which the best so far is returned.
        seed: random seed of the probes.
        progress: show a bar once it takes over two seconds.
    """
    work = _Fit(model, generator_from(seed, sampler.steps))
    judge = _Fit(model, work.generator, share=_JUDGED)
    best = last = _Theta.of(sampler)
    least = judge.loss(best, held)
    name = f"coefficients of {sampler.steps} steps"
    bar = iter(progress_bar(range(iterations), name=name, shown=progress))
    for left, work.share in zip(range(len(shares), 0, -1), shares, strict=True):
        stage = islice(bar, max(1, iterations // len(shares)))
        limit = time.monotonic() + (until - time.monotonic()) / left
        for better in _descend(work, last, fit, stage, limit):
            last, score = better, judge.loss(better, held)
            if score < least:
                best, least = better, score
    return best.sampler()


def _descend(
    work: _Fit, theta: _Theta, fit: Starts, steps: Iterator[int], until: float
) -> Iterator[_Theta]:
    """Each better theta in turn, until none is found, gains are small, or the time is over."""
    here, damping, idle = work.loss(theta, fit), 1e-3, 0
    for _ in steps:
        matrix, gradient = work.equations(theta, fit)
        if not bool(matrix.isfinite().all()) or time.monotonic() > until:
            return
        scale = matrix.diagonal().clamp(min=1e-12 * matrix.diagonal().max().item()).sqrt()
        scaled, slope = matrix / torch.outer(scale, scale), gradient / scale
        for _ in range(_TRIALS):
            damped = scaled + damping * torch.eye(len(scale), dtype=scale.dtype)
            trial = work.within(theta.plus(-torch.linalg.solve(damped, slope) / scale))
            value = work.loss(trial, fit)
            if value < here:
                break
            damping *= 4
        else:
            return
        idle = 0 if here - value > _SMALL else idle + 1
        theta, here, damping = trial, value, max(damping / 5, 1e-10)
        yield theta
        if idle == _PATIENCE:
            return
