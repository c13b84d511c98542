r"""The variational bound of a diffusion in continuous time, term by term.

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

from sde_score._core.checks import require_choice, require_count, sum_event
from sde_score.distributions import Normal
from sde_score.likelihood._validation import require_inputs, start_time
from sde_score.likelihood.base import standard_error
from sde_score.likelihood.decoders import DataTerm, GaussianDecoder
from sde_score.models import Model
from sde_score.random import ExampleStreams, example_seeds, generator_from, mix
from sde_score.sdes import SDE


@dataclass(frozen=True, eq=False)
class Bound:
    """What `variational_bound` returns: nats, float64, each of shape `(batch,)`.

    Args:
        prior: KL from the last state to the prior, exact.
        diffusion: the integral over time.
        residual: what is left at the start.
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


@torch.no_grad()
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
    condition: Tensor | None = None,
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
        time_sampling: `log-snr`, the law that makes the weight of all times equal (importance
            sampling), or `uniform` in t.
        antithetic: ask the model at each noise and at its negative, twice the evaluations.
        start: time t_0 from which data are decoded, in [t_min, t_max); None is `t_min`. The bound
            holds for any; for levels it is closest where the noise is a fraction of a bin.
        seed: a whole number for a family of examples, one number per example, or None; see
            `sde_score.random.example_seeds`. The value of an example does not depend on its batch.
        condition: passed to the model unchanged, shape `(batch, ...)`.
        progress: show a bar.

    Returns:
        A `Bound`.

    Raises:
        TypeError: for a model without the protocol, or x0 that is not floating point.
        ValueError: for counts below 1, an unknown name, a start out of range, x0 that is empty or
            not finite, or a condition of another length.
    """
    from tqdm.auto import tqdm

    require_inputs("x0", model, x0, condition)
    require_count(draws=draws, times=times)
    require_choice("time_sampling", time_sampling, tuple(TIME_SAMPLINGS))
    begin = start_time(model.sde, start)
    x0, evaluations = x0.double(), model.nfe
    seeds, signs = example_seeds(seed, len(x0)), (1.0, -1.0) if antithetic else (1.0,)
    end = residual or GaussianDecoder()
    ends, paths = [], []
    with tqdm(total=draws * times, disable=not progress, delay=2, desc="bound") as bar:
        for draw in range(draws):
            streams = _Streams([mix(number, draw) for number in seeds], x0, signs)
            states = (model.sde.perturb(x0, begin, noise) for noise in streams.noises())
            ends.append(_mean([end(model, x0, x, begin, condition) for x in states]))
            path = torch.zeros_like(ends[0])
            for u in streams.uniforms(times):
                t, weight = TIME_SAMPLINGS[time_sampling](model.sde, begin, u)
                errors = [noise_error(model, x0, t, z, condition) for z in streams.noises()]
                path += weight * _mean(errors) / times
                bar.update()
            paths.append(path)
    diffusion, rest = torch.stack(paths), torch.stack(ends)
    error = standard_error(diffusion + rest)
    nfe = model.nfe - evaluations
    return Bound(_prior(model.sde, x0), diffusion.mean(0), rest.mean(0), error, nfe)


def noise_error(
    model: Model, x0: Tensor, t: Tensor, noise: Tensor, condition: Tensor | None = None
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
