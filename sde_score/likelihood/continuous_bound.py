r"""The variational bound of a diffusion in continuous time, term by term, and as a likelihood.

Read as a hierarchical VAE with infinitely many layers, from a start t_0 >= t_min on, a diffusion
and a model of its noise bound the code length of x_0 by

.. math:: -\log p(x_0) \le \underbrace{KL(q(x_T \mid x_0) \,\|\, p(x_T))}_{\text{prior}}
          + \underbrace{\frac12 \int_{t_0}^{T} \Big(-\frac{d\lambda}{dt}\Big)
            E\lVert \hat\epsilon(x_t, t) - \epsilon \rVert^2 dt}_{\text{diffusion}}
          + \underbrace{E[-\log p(x_0 \mid x_{t_0})]}_{\text{residual}},

with lambda the log signal-to-noise ratio and -d lambda/dt = g^2 / sigma^2.

The bound of ScoreFlow is the same one, stopped at x_{t_0} instead of x_0. It reads

.. math:: -E \log p(x_{t_0}) \le -E \log p(x_T) + \frac12 \int E\left[
          g^2 \lVert s - \nabla \log q(x_t \mid x_0) \rVert^2
          - g^2 \lVert \nabla \log q(x_t \mid x_0) \rVert^2 - 2\, \mathrm{div} f \right] dt .

The first term is the prior term plus the entropy of q(x_T | x_0), D/2 log(2 pi e sigma_T^2); the
first half of the integral is the diffusion term; the rest is known: E||grad log q||^2 = D / sigma^2
and div f = D alpha' / alpha give -D (log sigma)' as integrand, so -D log(sigma_T / sigma_{t_0}).
Together: prior + diffusion + D/2 log(2 pi e sigma_{t_0}^2), the entropy of x_{t_0} given x_0. The
two published bounds differ by their residual alone.

Reference: Kingma et al. 2021 (VDM), https://arxiv.org/abs/2107.00630, eq. 11 and 17; Song et al.
2021 (ScoreFlow), https://arxiv.org/abs/2101.09258, theorem 3 and eq. 11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_choice, require_count, require_positive, sum_event
from sde_score._core.conditions import Condition
from sde_score._core.gradients import gradients, require_graph
from sde_score._core.progress import progress_bar
from sde_score.distributions import Normal
from sde_score.likelihood.base import (
    Likelihood,
    Problem,
    independent_draws,
    standard_error,
    start_time,
)
from sde_score.likelihood.decoders import (
    BoundedPoints,
    DataTerm,
    GaussianDecoder,
    KernelEntropy,
    LevelDecoder,
    bounded_points,
    decoding_time,
)
from sde_score.likelihood.dequantization import DEQUANTIZATIONS, Dequantization
from sde_score.models import Model, checked_inputs
from sde_score.random import ExampleStreams, example_seeds, generator_from, mix
from sde_score.sdes import SDE


@dataclass(frozen=True, eq=False)
class Bound:
    """A bound on -log p in three terms: nats, float64, each of shape `(batch,)`.

    Args:
        prior: KL from the last state to the prior, exact.
        diffusion: the integral over time.
        residual: the data term at the start.
        standard_error: of `nats` over the independent draws; NaN for a single one.
        nfe: evaluations of the model for the batch.
    """

    prior: Tensor
    diffusion: Tensor
    residual: Tensor
    standard_error: Tensor
    nfe: int

    @property
    def nats(self) -> Tensor:
        """The bound on -log p, the sum of the three terms."""
        return self.prior + self.diffusion + self.residual


def variational_bound(
    model: Model,
    x0: Tensor,
    *,
    residual: DataTerm | None = None,
    draws: int = 4,
    times: int = 16,
    time_sampling: str = "log-snr",
    antithetic: bool = False,
    start: float | None = None,
    seed: int | Sequence[int] | None = 0,
    condition: Condition = None,
    grad: bool = False,
    progress: bool = False,
) -> Bound:
    """Estimate the bound on -log p(x0) without bias.

    A draw visits `times` noise levels that one random offset spreads evenly (low discrepancy). They
    depend on each other, so an error bar cannot come from within a draw; draws are independent, and
    it comes from their spread.

    Args:
        model: anything with the model protocol. Its mode is left alone: call `eval()` first if it
            holds dropout.
        x0: data in model space, shape `(batch, *event)`.
        residual: the term at the start: `GaussianDecoder` for a density, the default;
            `LevelDecoder` for discrete data at the centers of their levels; `KernelEntropy` for
            ScoreFlow's bound.
        draws: independent draws per example, at least 1; 2 for a standard error.
        times: noise levels per draw, at least 1.
        time_sampling: `log-snr`, with which all times have equal weight (importance sampling), or
            `uniform` in t.
        antithetic: ask the model at each noise and at its negative, twice the evaluations.
        start: time t_0 from which data are decoded, in [t_min, t_max); None is `t_min`. The bound
            holds for any; for levels it is closest where the noise is a fraction of a bin.
        seed: an integer for a family of examples, one number per example, or None; see
            `sde_score.random.example_seeds`. The value of an example does not depend on its batch.
        condition: passed to the model unchanged, shape `(batch, ...)`.
        grad: keep the graph to x0, the condition and the model's parameters.
        progress: show a bar.

    Raises:
        TypeError: for a model without the protocol, or x0 that is not floating point.
        ValueError: for counts below 1, an unknown name, a start out of range, x0 that is empty or
            not finite, a condition of another length, or x0 that requires a gradient without
            `grad`.
    """
    x0, condition = checked_inputs("x0", model, x0, condition)
    require_count(draws=draws, times=times)
    require_choice("time_sampling", time_sampling, tuple(TIME_SAMPLINGS))
    begin, sampled = start_time(model.sde, start), TIME_SAMPLINGS[time_sampling]
    seeds, signs = example_seeds(seed, len(x0)), (1.0, -1.0) if antithetic else (1.0,)
    end, evaluations, terms = residual or GaussianDecoder(), model.nfe, []
    bar = progress_bar(total=draws * times, name="bound", shown=progress)
    with gradients(grad, x0=x0, condition=condition), bar:
        x0 = x0.double()
        for draw in range(draws):
            streams = _Streams([mix(number, draw) for number in seeds], x0, signs)
            states = (model.sde.perturb(x0, begin, noise) for noise in streams.noises())
            rest = _mean([end(model, x0, x, begin, condition) for x in states])
            levels = [sampled(model.sde, begin, u) for u in streams.uniforms(times)]
            terms.append((_integral(model, x0, levels, streams, condition, bar.update), rest))
        diffusion, rest = (torch.stack(found) for found in zip(*terms, strict=True))
        prior = _prior(model.sde, x0)
    require_graph(grad, diffusion + rest)
    error = standard_error((diffusion + rest).detach())
    return Bound(prior, diffusion.mean(0), rest.mean(0), error, model.nfe - evaluations)


def _integral(
    model: Model,
    x0: Tensor,
    levels: Sequence[tuple[Tensor, Tensor]],
    streams: _Streams,
    condition: Condition,
    tick: Callable[[], object],
) -> Tensor:
    """One draw of the integral over time, from times and their weights, shape `(batch,)`."""
    total = x0.new_zeros(len(x0))
    for t, weight in levels:
        errors = [noise_error(model, x0, t, noise, condition) for noise in streams.noises()]
        total = total + weight * _mean(errors) / len(levels)
        tick()
    return total


def noise_error(
    model: Model, x0: Tensor, t: Tensor, noise: Tensor, condition: Condition = None
) -> Tensor:
    """1/2 ||noise_hat - noise||^2 at x_t = alpha x0 + sigma noise, shape `(batch,)`: minus the
    derivative of the bound with respect to log-SNR."""
    off = model.noise(model.sde.perturb(x0, t, noise), t, condition) - noise
    return 0.5 * sum_event(off.square())


def _uniform_log_snr(sde: SDE, start: float, u: Tensor) -> tuple[Tensor, Tensor]:
    low, high = (float(sde.log_snr(t)) for t in (sde.t_max, start))
    return sde.time_of_log_snr(high + u * (low - high)), torch.full_like(u, high - low)


def _uniform_time(sde: SDE, start: float, u: Tensor) -> tuple[Tensor, Tensor]:
    span = sde.t_max - start
    t = start + u * span
    return t, span * (sde.diffusion(t) / sde.sigma(t)) ** 2


TIME_SAMPLINGS: Mapping[str, Callable[[SDE, float, Tensor], tuple[Tensor, Tensor]]] = {
    "log-snr": _uniform_log_snr,
    "uniform": _uniform_time,
}
"""From uniform numbers `(batch,)` to times between a start and t_max, and the weights that make a
mean over them the integral over log-SNR."""


def _prior(sde: SDE, x0: Tensor) -> Tensor:
    """KL(q(x_T | x_0) || prior) in nats, shape `(batch,)`."""
    std = torch.tensor(sde.prior_std, dtype=x0.dtype)
    return Normal(*sde.marginal(x0, sde.t_max)).kl(Normal(torch.zeros_like(x0), std))


@dataclass(frozen=True)
class ContinuousBound(Likelihood):
    """The variational bound in continuous time, see `variational_bound`.

    Args:
        draws: independent draws per example, at least 1; 2 for a standard error.
        times: noise levels per draw, at least 1.
        time_sampling: a name in `TIME_SAMPLINGS`.
        antithetic: evaluate the model at each noise and at its negative.
        residual: `decoder` decodes x at the start to the data: to levels if they are discrete, to a
            density if not; `kernel-entropy` is ScoreFlow's bound, on the density at the start.
        decoder_std: standard deviation of the decoder, > 0; None for sigma / alpha at the start.
        start: time from which data are decoded, in [t_min, t_max). If not given, `t_min`, or for
            levels the time at which half a bin holds three standard deviations of the noise, if it
            is later: earlier noise carries no information on the level, but costs its own.
        dequantization: `none`: discrete data are decoded to their levels. `uniform` or an object:
            they are dequantized and bounded as continuous data, as for published numbers made that
            way or a model that was trained on dequantized data; the points must live at t_min.

    Raises:
        ValueError: for an argument outside its range; when called, for `kernel-entropy` of levels,
            or noise that does not live at t_min.
    """

    draws: int = 4
    times: int = 16
    time_sampling: str = "log-snr"
    antithetic: bool = False
    residual: str = "decoder"
    decoder_std: float | None = None
    start: float | None = None
    dequantization: str | Dequantization = "none"

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(draws=self.draws, times=self.times)
        require_choice("time_sampling", self.time_sampling, tuple(TIME_SAMPLINGS))
        require_choice("residual", self.residual, ("decoder", "kernel-entropy"))
        if self.decoder_std is not None:
            require_positive(decoder_std=self.decoder_std)
        DEQUANTIZATIONS.resolve(self.dequantization, name="dequantization")

    def estimate(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Lower bounds on the log-likelihoods and their standard errors, shape `(batch,)` each."""
        rows, _ = independent_draws(
            lambda seeds: self._draw(problem, seeds), self.draws, problem.seeds
        )
        return rows.mean(0), standard_error(rows)

    def _draw(self, problem: Problem, seeds: list[int]) -> tuple[Tensor, Tensor]:
        points = bounded_points(self.dequantization, problem, seeds)
        start = decoding_time(problem.model.sde, points.quantization)
        found = variational_bound(
            problem.model,
            points.x,
            residual=self._data_term(points),
            draws=1,
            times=self.times,
            time_sampling=self.time_sampling,
            antithetic=self.antithetic,
            start=start if self.start is None else self.start,
            seed=seeds,
            condition=problem.condition,
            grad=problem.grad,
            progress=problem.progress,
        )
        return -found.nats - points.log_q, found.standard_error

    def _data_term(self, points: BoundedPoints) -> DataTerm:
        if self.residual == "decoder":
            if points.quantization is None:
                return GaussianDecoder(self.decoder_std)
            return LevelDecoder(points.quantization, self.decoder_std)
        if points.quantization is not None:
            raise ValueError(
                "residual='kernel-entropy' bounds a density: discrete data need "
                "dequantization='uniform' with it, or residual='decoder'"
            )
        return KernelEntropy()


class _Streams:
    """The random numbers of one draw, those of each example from its own seed."""

    def __init__(self, seeds: Sequence[int], x0: Tensor, signs: tuple[float, ...]) -> None:
        self._seeds = seeds
        self._signs = signs
        self._normal = ExampleStreams(seeds, x0)
        self._device = x0.device

    def noises(self) -> list[Tensor]:
        """The next normal noise, and its negative if asked for, each like x0."""
        noise = self._normal()
        return [sign * noise for sign in self._signs]

    def uniforms(self, times: int) -> Tensor:
        """frac(offset + i / times), an offset per example, shape `(times, batch)`."""
        sources = [generator_from(seed, 1) for seed in self._seeds]
        offsets = [torch.rand((), generator=source, dtype=torch.float64) for source in sources]
        points = torch.arange(times, dtype=torch.float64)[:, None] / times
        return ((points + torch.stack(offsets)) % 1.0).to(self._device)


def _mean(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(terms)).mean(0)
