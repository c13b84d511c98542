r"""Benchmark targets: distributions whose score, samples and probability flow are known.

`BENCHMARK_TARGETS` names the exact ones; each is made by a function of the diffusion, so that
`BENCHMARK_TARGETS.create("ring(sde='vp')")` is the ring under VP. Any model with data to compare
with makes one too, such as a trained network (`sde_score.evaluation.target_of_run`).

The *flow* of a target takes a start to the end of the probability-flow ODE: the right answer of a
deterministic sampler. For an exact distribution it depends on the noise ratio s = sigma / alpha
alone, not on the diffusion: with x the start, y = x / alpha goes from the ratio of `t_max` down to
s = 1e-5, where the denoised mean ends it. For data of variance v along an axis the exact factor of
the last stretch is sqrt(v / (v + s^2)) and that of the mean v / (v + s^2), so the end is off by

.. math:: \frac{s^2}{2 v} \quad \text{of the data: } 5 \cdot 10^{-8} \text{ for } v = 10^{-3} .
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sde_score._core.conditions import Condition
from sde_score._core.modules import blank_like, weights_digest
from sde_score._core.registry import Registry
from sde_score.evaluation.provenance import provenance
from sde_score.models import TARGETS, EnergyBased, GaussianMixture, Model, Target
from sde_score.random import ExampleStreams, generator_from
from sde_score.samplers import ProbabilityFlowODE, UniformTime
from sde_score.sdes import EDM, SDE, SDES

RING_STD, RING_MODES = 0.1, 8
DIGITS_COMPONENTS, DIGITS_RIDGE = 10, 1e-3

_FLOW_END, _FLOW_TOLERANCE = 1e-5, 1e-10
_BLOCK = 4096  # examples whose density is computed at once
_ENTROPY_DRAWS = 100_000
_TRUTH_SEED = 7001


ExactModel = GaussianMixture | EnergyBased
"""A model with exact `sample` and `log_prob`."""


@dataclass(frozen=True, eq=False)
class BenchmarkTarget:
    """A distribution to sample from.

    Args:
        name: for tables.
        model: the score that samplers see, on its SDE.
        event_shape: shape of one sample.
        truth: `count -> (count, *event)`, draws that samples are compared with, always the same;
            fewer come back where there are no more.
        data: `(count, seed) -> (count, *event)`, other draws, or as many as there are.
        flow: `(starts at t_max, condition)` to the ends of the probability-flow ODE, like the
            starts.
        flow_note: how the flow was found, for captions.
        identity: name of the distribution in files; targets of one identity are equal.
        log_prob: log density of the data in nats, `(batch,)`, if it is known.
        starts: number of samples by default.
        condition: `count -> (count, ...)`, passed to the model; None for no condition.
        deliver: from samples to what is compared with data.
        samplers: measured beside all others where none are named, such as the steps of a flow map.
        data_note: the data that samples are measured against, where they are no draws of the target
            and not held out of the training of its network, for captions.
    """

    name: str
    model: Model
    event_shape: tuple[int, ...]
    truth: Callable[[int], Tensor]
    data: Callable[[int, int], Tensor]
    flow: Callable[[Tensor, Condition], Tensor]
    flow_note: str
    identity: str
    log_prob: Callable[[Tensor], Tensor] | None = None
    starts: int = 1024
    condition: Callable[[int], Condition] = field(default=lambda count: None)
    deliver: Callable[[Tensor], Tensor] = field(default=lambda samples: samples)
    samplers: tuple[str, ...] = ()
    data_note: str = ""

    @property
    def dimensions(self) -> int:
        """Numbers in a sample."""
        return math.prod(self.event_shape)

    def start(self, seeds: Sequence[int]) -> Tensor:
        """States at `t_max`, one per seed: the very ones that samplers draw from these seeds."""
        blank = blank_like(self.model, (len(seeds), *self.event_shape))
        return ExampleStreams(seeds, blank)().clone() * self.model.sde.prior_std

    def surprise(self, x: Tensor) -> Tensor | None:
        """-log p per dimension, `(batch,)` in float64; None where the density is not known."""
        if self.log_prob is None:
            return None
        parts = [self.log_prob(part.double()) for part in torch.split(x, _BLOCK)]
        return -torch.cat(parts) / self.dimensions

    def entropy(self, seed: int = 0, draws: int = _ENTROPY_DRAWS) -> tuple[float, float] | None:
        """Entropy per dimension and its standard error, from exact draws."""
        if self.log_prob is None:
            return None
        found = self.surprise(self.data(draws, seed))
        if found is None:
            return None
        return float(found.mean()), float(found.std()) / math.sqrt(len(found))


def exact_flow(
    model: Model,
    x: Tensor,
    condition: Condition = None,
    *,
    end: float | None = None,
    tolerance: float = _FLOW_TOLERANCE,
) -> Tensor:
    """Ends of the probability-flow ODE, each start with its own adaptive steps.

    The ODE is integrated over the log signal-to-noise ratio, in float64 around the model, down to
    the time `end`; the denoised mean there is the result.

    Args:
        model: anything with the model protocol.
        x: states at `model.sde.t_max`.
        condition: passed to the model.
        end: last time; None takes `model.sde.t_min`.
        tolerance: of a step, relative and absolute.
    """
    last = model.sde.t_min if end is None else end
    solver = ProbabilityFlowODE(rtol=tolerance, atol=tolerance, grid=UniformTime(end=last))
    return solver(model, x, seed=0, condition=condition, progress=False)


def exact_target(
    name: str,
    distribution: Callable[[SDE], ExactModel] | Target,
    sde: SDE | str = "edm",
    starts: int = 1024,
) -> BenchmarkTarget:
    """A target made of a distribution whose diffused score is known.

    Args:
        name: for tables.
        distribution: a `Target`, or a function from an SDE to the model under it, such as
            `lambda sde: GaussianMixture(means, variances, sde)`.
        sde: the diffusion that samplers see, or its spec.
        starts: number of samples by default.
    """
    diffused = distribution.diffused if isinstance(distribution, Target) else distribution
    sde = SDES.resolve(sde, name="sde")
    model: Any = diffused(sde)
    ratio = float(torch.exp(-0.5 * sde.log_snr(sde.t_max)))
    fine, scale = diffused(EDM(_FLOW_END, ratio)), float(sde.alpha(sde.t_max))

    def data(count: int, seed: int) -> Tensor:
        draws: Tensor = model.sample(count, generator=generator_from(seed))
        return draws.reshape(count, *model.event_shape)

    def flow(x: Tensor, condition: Condition) -> Tensor:
        return exact_flow(fine, x.double() / scale, condition)

    what = repr(distribution) if isinstance(distribution, Target) else weights_digest(model)[:16]
    return BenchmarkTarget(
        name=name,
        model=model,
        event_shape=model.event_shape,
        truth=lambda count: data(count, _TRUTH_SEED),
        data=data,
        flow=flow,
        flow_note=f"exact: adaptive to {_FLOW_TOLERANCE:g} in float64, down to {_FLOW_END:g}",
        identity=f"{name} {what} under {sde!r} | {provenance(distribution, sde)}",
        log_prob=model.log_prob,
        starts=starts,
    )


def ring(sde: SDE | str = "edm") -> BenchmarkTarget:
    r"""Eight equal Gaussian modes of standard deviation 0.1 on a circle, in the plane.

    .. math:: \mu_k = r\, (\cos \tfrac{2 \pi k}{8}, \sin \tfrac{2 \pi k}{8}), \qquad
              r = \sqrt{2\, (1 - 0.1^2)}

    so that each coordinate has variance :math:`r^2 / 2 + 0.1^2 = 1`.
    """

    def mixture(under: SDE) -> GaussianMixture:
        angle = 2 * math.pi * torch.arange(RING_MODES, dtype=torch.float64) / RING_MODES
        radius = math.sqrt(2 * (1 - RING_STD**2))
        return GaussianMixture(
            radius * torch.stack([angle.cos(), angle.sin()], 1), RING_STD**2, under
        )

    return exact_target("ring", mixture, sde, starts=4096)


def digits_mixture(sde: SDE | str = "edm") -> BenchmarkTarget:
    """Ten Gaussians with full covariances in 64 dimensions, fitted to real handwritten digits.

    The fit is scikit-learn's expectation maximization on its bundled digits, scaled to [-1, 1],
    from a fixed seed; 1e-3 on the diagonal keeps pixels that never change from having no variance.
    It takes a second, and its numbers are part of the target's identity.
    """
    from sklearn.datasets import load_digits
    from sklearn.mixture import GaussianMixture as Fit

    fit = Fit(DIGITS_COMPONENTS, reg_covar=DIGITS_RIDGE, random_state=0)
    fit.fit(load_digits().data / 8 - 1)
    means, covariances, weights = (
        torch.as_tensor(a) for a in (fit.means_, fit.covariances_, fit.weights_)
    )

    def mixture(under: SDE) -> GaussianMixture:
        return GaussianMixture(means, covariances, under, weights)

    return exact_target("digits-mixture", mixture, sde, starts=1024)


def exact(target: str | Target = "gaussian", sde: SDE | str = "edm") -> BenchmarkTarget:
    """Any distribution of `sde_score.models.TARGETS`, or one of your own, as a benchmark target.

    Args:
        target: its spec, or an object.
        sde: the diffusion that samplers see, or its spec.
    """
    return exact_target(str(target), TARGETS.resolve(target, name="target"), sde)


BENCHMARK_TARGETS: Registry[BenchmarkTarget] = Registry(
    "benchmark target",
    {
        "ring": ring,
        "digits-mixture": digits_mixture,
        "exact": exact,
        **{name: partial(exact, name) for name in TARGETS.names() if name != "ring"},
    },
    base=BenchmarkTarget,
)
"""Constructors of distributions with exact scores, under EDM from sigma = 80 down by default.

Those of `sde_score.models.TARGETS` go by their own names, but `exact(target='ring')`: here `ring`
is that of eight modes.
"""


def register_target(
    name: str, distribution: Callable[[SDE], ExactModel] | Target, starts: int = 1024
) -> None:
    """Add a benchmark target of your own; `register_target("mine", my_target)` is enough.

    Args:
        name: letters, digits, dashes and underscores, beginning with a letter; not taken yet.
        distribution: a `Target`, or a function from an SDE to the model under it.
        starts: number of samples by default.

    Raises:
        ValueError: for a name that is taken or that no spec can have.
    """

    def constructor(sde: SDE | str = "edm") -> BenchmarkTarget:
        return exact_target(name, distribution, sde, starts)

    BENCHMARK_TARGETS.register(name, constructor)
