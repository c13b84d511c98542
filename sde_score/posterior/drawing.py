"""Samples of a posterior by any method by name: guided models, posterior samplers, particles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sde_score import samplers
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, mapped, tensors_of
from sde_score._core.registry import Registry, parse_spec
from sde_score.models import Model, require_model
from sde_score.posterior.methods import METHODS
from sde_score.posterior.observations import Observation, require_observation
from sde_score.posterior.posterior import Posterior
from sde_score.posterior.samplers import SAMPLERS
from sde_score.posterior.smc import SMC, FeynmanKac, NoisedObservation, Particles, Twisted
from sde_score.samplers import Sampler

PARTICLES: Registry[FeynmanKac] = Registry(
    "particle method",
    {
        "twisted": Twisted,
        "mcg-diff": partial(NoisedObservation, path="mean"),
        "fps": partial(NoisedObservation, path="drawn"),
    },
    base=FeynmanKac,
)
"""Posteriors by weighted particles, by name, and those of users by `register`."""

DRIVERS: Registry[SMC] = Registry("particle driver", {"smc": SMC}, base=SMC)
"""How many particles, by text such as `"smc(particles=512)"`."""


@dataclass(frozen=True, eq=False)
class PosteriorSamples(samplers.Samples):
    """Samples of a posterior.

    Args:
        method: as text.
        limit: what it tends to, and how it is biased.
        particles: all of them with their weights and log p(y), for a method of particles.
    """

    method: str
    limit: str
    particles: Particles | None = None

    def __str__(self) -> str:
        return f"{self.method}: {self.limit}" + (f"; {self.particles}" if self.particles else "")


def available() -> list[str]:
    """Names of all methods: guided models, posterior samplers and particles."""
    return [*METHODS, *SAMPLERS, *PARTICLES]


def sample(
    model: Model,
    observation: Observation,
    method: str = "mmps",
    num: int = 16,
    *,
    sampler: str | Sampler | SMC | None = None,
    event_shape: Sequence[int] | None = None,
    seed: int = 0,
    condition: Condition = None,
    batch_size: int = 256,
    progress: bool = True,
) -> PosteriorSamples:
    """Draw samples of a model given an observation.

    Args:
        model: of the prior; anything with the model protocol.
        observation: `Measurement`, `Poisson` or `LogLikelihood`.
        method: a name of `available()`, such as `"mmps"`, `"ddrm(steps=20)"` or `"twisted"`.
        num: how many samples.
        sampler: for a guided model, its sampler, such as `"dpmpp-2m(steps=50)"`; for particles,
            how many there are, such as `"smc(steps=100, particles=128, islands=8)"`; posterior
            samplers are their own. None takes what suits the method.
        event_shape: of one sample; None takes it from the operator.
        seed: random seed; sample i depends on (seed, i) alone, except for particles, which are
            drawn together.
        condition: what all samples are told beside, an entry for one, shape `(1, ...)`.
        batch_size: samples that the network sees at once.
        progress: show a bar.

    Raises:
        TypeError: if `model` or `observation` is none, or the method needs another observation.
        ValueError: for an unknown method or sampler, or a missing `event_shape`.
    """
    require_model(model)
    require_observation(observation)
    require_count(num=num, batch_size=batch_size)
    shape = observation.event_shape if event_shape is None else event_shape
    if shape is None:
        raise ValueError("event_shape is missing: a LogLikelihood does not say it")
    if any(len(value) != 1 for value in tensors_of(condition)):
        raise ValueError("condition must be an entry for one sample, shape (1, ...)")
    told = mapped(condition, lambda c: c.expand(num, *c.shape[1:]))
    draw = partial(
        samplers.run, event_shape=shape, num=num, seed=seed, condition=told, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    name = parse_spec(method)[0]
    if name in METHODS:
        rule = METHODS.create(method)
        chosen = samplers.SAMPLERS.resolve(sampler or rule.sampler, name="sampler")  # type: ignore[arg-type]
        drawn = draw(Posterior(model, observation, rule, sampler=chosen), chosen)
        return PosteriorSamples(drawn.samples, drawn.nfe, method, rule.limit)
    if name in SAMPLERS:
        if sampler is not None:
            raise ValueError(f"sampler={sampler}: {name} has steps of its own, as {name}(steps=20)")
        own: Any = SAMPLERS.create(method, observation=observation)
        drawn = draw(model, own)
        return PosteriorSamples(drawn.samples, drawn.nfe, method, own.limit)
    if name not in PARTICLES:
        raise ValueError(f"unknown method {name!r}; accepted: {', '.join(available())}")
    shapes = {"event_shape": event_shape} if name == "twisted" else {}
    target = PARTICLES.create(
        method, model=model, observation=observation, condition=condition, **shapes
    )
    driver = DRIVERS.resolve(sampler or "smc", name="sampler")  # type: ignore[arg-type]
    particles = driver(target, seed=seed, batch_size=max(batch_size, 1), progress=progress)
    return PosteriorSamples(
        particles.resampled(num, seed).cpu(), particles.nfe, method, target.limit, particles
    )
