"""Parallel tempering: replicas at higher temperatures that swap places with the chain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_count, require_positive
from sde_score._core.conditions import mapped
from sde_score.mcmc.kernel import KERNELS, Kernel, State, Transition, Tuning, log_uniform
from sde_score.models import Density, Marginal
from sde_score.random import Noise


@dataclass(frozen=True, eq=False)
class TemperedState(State):
    """The cold replica of each chain, with all replicas behind it.

    Args:
        replicas: of all temperatures, `(temperatures * chains, *event)`, the coldest first: row
            `r * chains + c` is replica r of chain c. Score and energy are not divided by anything.
        swap_acceptance: mean probability so far with which replicas r and r + 1 were swapped,
            `(temperatures - 1, chains)`; 0 before the first try.
        steps: taken since the start.
    """

    replicas: State = field(kw_only=True)
    swap_acceptance: Tensor = field(kw_only=True)
    steps: int = 0


@dataclass(frozen=True)
class Tempering(Kernel):
    r"""Parallel tempering: one replica per temperature, each moved by an inner kernel, then swaps.

    .. math:: T_r = T\, hottest^{r / (replicas - 1)}, \qquad
              \log a = (1/T_r - 1/T_{r+1}) (E(x_r) - E(x_{r+1}))

    Replica r has the target exp(-E / T_r); the chain is replica 0. Each step moves all replicas
    once and then swaps neighbors with probability min(1, a): the pairs (0, 1), (2, 3), ... after
    one step, (1, 2), (3, 4), ... after the next. So replicas travel along the ladder faster than
    with pairs chosen at random. The joint distribution is kept exactly.

    All replicas of all chains move in the same evaluations of the density. Replica r moves in the
    units y = x / sqrt(T_r / T), in which a Gaussian is the same at every temperature, so that one
    step size and one mass serve all. `acceptance` is the inner kernel's, averaged over replicas;
    `energy_error` is the cold one's; how often replicas swap is in the `TemperedState`.

    Args:
        step_size: of the inner kernel, > 0.
        temperature: T, > 0, of the cold replica, whose target is that of the kernel.
        inner: an adjusted kernel that uses the energy, such as `"mala"` or
            `"hmc(leapfrogs=5)"`: a spec or an object. Its step size and temperature are those
            given here.
        replicas: number of temperatures, at least 2.
        hottest: highest temperature over T, > 1: the barriers between modes should be no more than
            a few times as high. Where neighbors swap with probability below 0.2, take more
            replicas.

    Raises:
        ValueError: for arguments outside their range, an inner kernel that is not exact or does
            not use the energy, or one that was given another step size or temperature.

    Reference: Geyer 1991, https://hdl.handle.net/11299/58440; alternation by Syed et al. 2022,
    https://arxiv.org/abs/1905.02939.
    """

    inner: str | Kernel = "hmc"
    replicas: int = 8
    hottest: float = 20.0

    adjusted = True
    needs_energy = True
    evaluations = "the inner kernel's, on replicas times the batch"
    reference = "Syed et al. 2022, https://arxiv.org/abs/1905.02939"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(minimum=2, replicas=self.replicas)
        require_positive(hottest=self.hottest)
        if not self.hottest > 1:
            raise ValueError(
                f"hottest={self.hottest!r} must be greater than 1: it is the highest temperature "
                "over the lowest; try 20"
            )
        kernel = self.kernel
        # The best acceptance is that of the inner kernel, an instance's property.
        object.__setattr__(self, "target_acceptance", kernel.target_acceptance)
        object.__setattr__(self, "uses_mass", kernel.uses_mass)

    @property
    def kernel(self) -> Kernel:
        """The inner kernel as an object, with this step size and temperature."""
        inner = KERNELS.resolve(self.inner, name="inner")
        exact = inner.adjusted and inner.needs_energy and not inner.discrete
        if isinstance(inner, Tempering) or not exact:
            raise ValueError(
                f"inner={self.inner!r} must keep its target exactly and use the energy, or the "
                "swaps break it; accepted: mala, hmc, nuts"
            )
        for name in ("step_size", "temperature"):
            given, mine = getattr(inner, name), getattr(self, name)
            if given not in (mine, getattr(type(inner), name)):
                raise ValueError(
                    f"inner has {name}={given!r} but tempering {mine!r}: give it to tempering alone"
                )
        return replace(inner, step_size=self.step_size, temperature=self.temperature)

    def ladder(self) -> Tensor:
        """The temperatures over the coldest, from 1 to `hottest`, float64 `(replicas,)`."""
        power = torch.arange(self.replicas, dtype=torch.float64) / (self.replicas - 1)
        return self.hottest**power

    @override
    def start(self, density: Density, x: Tensor, noise: Noise) -> TemperedState:
        """All replicas at x: one evaluation."""
        tempered = _Tempered(density, self.ladder().to(x), x.shape[0])
        everywhere = tempered.shrink(x.repeat(self.replicas, *(1,) * (x.ndim - 1)))
        replicas = tempered.from_units(self.kernel.start(tempered, everywhere, self._each(noise)))
        swaps = torch.zeros((self.replicas - 1, x.shape[0]), dtype=torch.float64, device=x.device)
        return _cold(replicas, swaps, 0)

    @override
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> Transition:
        """A step of the inner kernel for every replica, and the swaps."""
        if not isinstance(state, TemperedState):
            raise TypeError("tempering steps from a state of its own: begin with start(...)")
        chains = state.x.shape[0]
        tempered = _Tempered(density, self.ladder().to(state.x), chains)
        moved = self.kernel.step(
            tempered,
            tempered.to_units(state.replicas),
            self._each(noise),
            _for_replicas(tuning, state.x, self.replicas),
        )
        after = self._swap(state, tempered.from_units(moved.state), noise)
        acceptance = moved.acceptance.reshape(self.replicas, chains).mean(0)
        return Transition(after, acceptance, moved.energy_error[:chains])

    def _each(self, noise: Noise) -> Noise:
        """A draw for every replica, made of draws of the chains it belongs to."""
        # Each draw is copied, for the next one may take its place.
        return lambda: torch.cat([noise().clone() for _ in range(self.replicas)])

    def _swap(self, before: TemperedState, moved: State, noise: Noise) -> TemperedState:
        energy = _energy(moved).double().reshape(self.replicas, -1)
        inverse = 1 / (self.temperature * self.ladder().to(energy))
        # Two replicas make one pair, which is tried at every step.
        turns = 2 if self.replicas > 2 else 1
        low = torch.arange(before.steps % turns, self.replicas - 1, 2, device=energy.device)
        log_u = torch.stack([log_uniform(noise) for _ in range(len(low))])
        order, probability = swap_neighbors(energy, inverse, low, log_u)
        swaps = before.swap_acceptance.clone()
        swaps[low] += (probability - swaps[low]) / (before.steps // turns + 1)
        return _cold(_reordered(moved, order), swaps, before.steps + 1)


def swap_neighbors(
    energy: Tensor, inverse: Tensor, low: Tensor, log_u: Tensor
) -> tuple[Tensor, Tensor]:
    """Swap neighboring replicas: the new order over the temperatures.

    Args:
        energy: of each replica, `(replicas, chains)`.
        inverse: 1 / T_r, `(replicas,)`.
        low: the colder of each pair to try, `(pairs,)`; pairs must not overlap.
        log_u: logs of uniform numbers, `(pairs, chains)`.

    Returns:
        the replica that goes to each temperature, `(replicas, chains)`, and the probability with
        which each pair was swapped, `(pairs, chains)`; 0 instead of NaN.
    """
    high = low + 1
    log_ratio = (inverse[low] - inverse[high])[:, None] * (energy[low] - energy[high])
    swap = log_u < log_ratio
    order = torch.arange(len(energy), device=energy.device)[:, None].repeat(1, energy.shape[1])
    stay, move = order[low], order[high]
    order[low], order[high] = torch.where(swap, move, stay), torch.where(swap, stay, move)
    return order, log_ratio.nan_to_num(nan=-torch.inf).clamp(max=0).exp()


class _Tempered:
    r"""exp(-E / T_r) for rows of replicas, in the units y = x / s with s^2 = T_r / T: a `Density`.

    .. math:: E_r(y) = E(s y) / s^2, \qquad score_r(y) = score(s y) / s
    """

    def __init__(self, density: Density, ladder: Tensor, chains: int) -> None:
        self._density = _repeated(density, len(ladder), chains)
        self._square = ladder.repeat_interleave(chains)
        self._scale = self._square.sqrt()

    def energy(self, y: Tensor) -> Tensor:
        """Energy of each row over its temperature."""
        return self._density.energy(self._wide(y) * y) / self._square

    def score(self, y: Tensor) -> Tensor:
        """Minus the gradient of `energy`."""
        scale = self._wide(y)
        return self._density.score(scale * y) / scale

    def energy_and_score(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one evaluation."""
        scale = self._wide(y)
        energy, score = self._density.energy_and_score(scale * y)
        return energy / self._square, score / scale

    def shrink(self, x: Tensor) -> Tensor:
        """Positions in these units."""
        return x / self._wide(x)

    def to_units(self, state: State) -> State:
        """A state of the density as one of this."""
        scale = self._wide(state.x)
        energy = None if state.energy is None else state.energy / self._square
        return replace(state, x=state.x / scale, score=state.score / scale, energy=energy)

    def from_units(self, state: State) -> State:
        """Inverse of `to_units`."""
        scale = self._wide(state.x)
        energy = None if state.energy is None else state.energy * self._square
        return replace(state, x=state.x * scale, score=state.score * scale, energy=energy)

    def _wide(self, x: Tensor) -> Tensor:
        return expand_like(self._scale, x)


def _repeated(density: Density, replicas: int, chains: int) -> Density:
    """The density for all replicas: times and conditions of the chains, repeated per replica."""
    if not isinstance(density, Marginal):
        return density
    t, condition = density.t, density.condition
    if isinstance(t, Tensor) and t.ndim == 1:
        t = t.repeat(replicas)
    many = mapped(condition, lambda value: value.repeat(replicas, *(1,) * (value.ndim - 1)))
    return Marginal(density.model, t, many)


def _for_replicas(tuning: Tuning, x: Tensor, replicas: int) -> Tuning:
    step_size, mass = tuning.step_size, tuning.mass
    if step_size.ndim == 1:
        step_size = step_size.repeat(replicas)
    if mass is not None and mass.ndim == x.ndim:
        mass = mass.repeat(replicas, *(1,) * (x.ndim - 1))
    return Tuning(step_size, mass)


def _reordered(state: State, order: Tensor) -> State:
    """The replicas in another order; momenta stay, since their distribution is common to all."""
    chains = order.shape[1]
    rows = (order * chains + torch.arange(chains, device=order.device)).flatten()
    return State(state.x[rows], state.score[rows], _energy(state)[rows], state.momentum)


def _cold(replicas: State, swaps: Tensor, steps: int) -> TemperedState:
    chains = swaps.shape[1]
    return TemperedState(
        replicas.x[:chains],
        replicas.score[:chains],
        _energy(replicas)[:chains],
        replicas=replicas,
        swap_acceptance=swaps,
        steps=steps,
    )


def _energy(state: State) -> Tensor:
    if state.energy is None:
        raise TypeError("replicas are swapped by their energies: the inner kernel gave none")
    return state.energy
