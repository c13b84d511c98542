"""The No-U-Turn sampler: Hamiltonian Monte Carlo with trajectories of adaptive length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, sum_event
from sde_score.mcmc.counter_rng import Uniforms
from sde_score.mcmc.kernel import Kernel, State, Transition, Tuning, choose
from sde_score.mcmc.leapfrog import draw_momentum, energy_rise, hamiltonian, leapfrog, velocity
from sde_score.models import Density
from sde_score.random import Noise

# Streams of the table of uniform numbers: which way to double, which half, which point of a half.
_WAY, _HALF, _POINT = range(3)


@dataclass(frozen=True, eq=False)
class NUTSTransition(Transition):
    """The result of one step of `NUTS`; every added tensor is `(chains,)`.

    Args:
        depth: doublings that were kept; the trajectory has 2^depth points.
        leapfrogs: steps integrated, those of a rejected doubling included.
        diverged: whether the energy rose beyond the bound.
    """

    depth: Tensor
    leapfrogs: Tensor
    diverged: Tensor


@dataclass(frozen=True)
class NUTS(Kernel):
    r"""No-U-Turn sampler: a trajectory is doubled until it turns, then gives one of its points.

    From (x, p), p ~ N(0, T m), each doubling integrates as many leapfrogs as there are points,
    forwards or backwards in time by a fair coin. It is dropped, and the trajectory ends, if the
    energy diverges in it or if it, or one of its aligned halves, quarters, ... turns; the
    trajectory also ends once the whole turns. With p_- and p_+ the momenta at its ends a stretch
    turns if

    .. math:: \rho \cdot p_-/m \le 0 \ \text{or}\ \rho \cdot p_+/m \le 0, \qquad
              \rho = \sum p - \tfrac12 (p_- + p_+) \approx \frac1h \int p\, dt ,

    or if either half of it does so with the next point of the other half.

    Within a doubling a point is drawn with probability proportional to exp(-H / T); it replaces the
    one drawn before with probability min(1, W_new / W_old), where W are the total weights of the
    new points and the old, which favors points far away. This keeps the target exactly.

    All chains advance in step, each with its own direction; one that has ended waits, unchanged,
    for those that have not. The loop asks the device once per leapfrog whether any is left.

    `acceptance` is the mean of min(1, exp((H_start - H) / T)) over all points integrated, and
    `energy_error` the largest (H - H_start) / T among them.

    Args:
        step_size: h, > 0, a time; lengths over it are in units of sqrt(T / m).
        temperature: T, > 0.
        max_depth: doublings at most, 1 to 20: up to 2^max_depth - 1 evaluations.
        divergence: rise of H / T, > 0, at which a trajectory has diverged. The bound is measured
            from the start of each trajectory, so one that only just exceeds it may not be
            reversible; with `inf` none ends before its energy overflows.

    Raises:
        ValueError: for arguments outside their range.

    Reference: Hoffman & Gelman 2014, https://arxiv.org/abs/1111.4246; multinomial draws and the
    criterion by Betancourt 2017, https://arxiv.org/abs/1701.02434, appendix A; iterative form by
    Lao et al. 2020, https://arxiv.org/abs/2002.01184.
    """

    max_depth: int = 10
    divergence: float = 1000.0

    adjusted = True
    needs_energy = True
    uses_mass = True
    evaluations = "1 to 2^max_depth - 1"
    reference = "Hoffman & Gelman 2014, https://arxiv.org/abs/1111.4246"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(max_depth=self.max_depth)
        if self.max_depth > 20:
            raise ValueError(
                f"max_depth={self.max_depth} must be at most 20, which is a million evaluations "
                "per step: raise step_size instead"
            )
        if not self.divergence > 0:
            raise ValueError(
                f"divergence={self.divergence!r} must be greater than 0; the usual bound is 1000"
            )

    @override
    @torch.no_grad()
    def step(self, density: Density, state: State, noise: Noise, tuning: Tuning) -> NUTSTransition:
        """One trajectory: an evaluation per leapfrog of the chain that takes the most."""
        momentum = draw_momentum(noise(), tuning.mass, self.temperature)
        root = State(state.x, state.score, state.energy, momentum)
        start = hamiltonian(root, tuning.mass)
        run = _Run(density, tuning, self, start, Uniforms.draw(noise))
        tree = _Tree(root, start)
        for depth in range(self.max_depth):
            _double(run, tree, depth)
            if not bool(tree.growing.any()):
                break
        last = tree.chosen
        count = run.leapfrogs.to(last.x)
        return NUTSTransition(
            State(last.x, last.score, last.energy),
            run.accepted.to(last.x) / count,
            run.worst.to(last.x),
            tree.depth,
            run.leapfrogs,
            run.diverged,
        )


class _Run:
    """Constants of one step, and its records of every point."""

    def __init__(
        self, density: Density, tuning: Tuning, kernel: NUTS, start: Tensor, uniforms: Uniforms
    ) -> None:
        self.density, self.tuning, self.kernel = density, tuning, kernel
        self.start, self.uniforms = start, uniforms
        self.accepted = torch.zeros_like(start, dtype=torch.float64)
        self.worst = torch.full_like(self.accepted, -torch.inf)
        self.leapfrogs = torch.zeros_like(start, dtype=torch.int64)
        self.diverged = torch.zeros_like(start, dtype=torch.bool)

    def record(self, end: State, live: Tensor) -> Tensor:
        """The rise (H - H_start) / T of a point, float64 `(chains,)`, noted for live chains."""
        rise = energy_rise(self.start, hamiltonian(end, self.tuning.mass), self.kernel.temperature)
        self.leapfrogs += live
        self.accepted += torch.where(live, rise.clamp(min=0).neg().exp(), 0.0)
        self.worst = torch.where(live, torch.maximum(self.worst, rise), self.worst)
        self.diverged |= live & self.beyond(rise)
        return rise

    def beyond(self, rise: Tensor) -> Tensor:
        """Whether a rise is a divergence, boolean `(chains,)`."""
        return (rise > self.kernel.divergence) | (rise == torch.inf)


class _Tree:
    """The trajectory so far: its ends, the point chosen in it, and sums over its points."""

    def __init__(self, root: State, start: Tensor) -> None:
        self.left = self.right = self.chosen = root
        self.momenta = _momentum(root)
        self.log_weight = torch.zeros_like(start, dtype=torch.float64)
        self.growing = torch.ones_like(start, dtype=torch.bool)
        self.depth = torch.zeros_like(start, dtype=torch.int64)


class _Branch:
    """One doubling: its last point, the point chosen in it, and whether it may be kept."""

    def __init__(self, near: State, tree: _Tree) -> None:
        self.tip = self.chosen = near
        self.live = tree.growing
        self.log_weight = torch.full_like(tree.log_weight, -torch.inf)
        self.first = self.momenta = torch.zeros_like(near.x)
        self._starts: dict[int, _Start] = {}

    def add(self, tip: State, index: int, mass: Tensor | None) -> Tensor:
        """Go on to point `index`; whether an aligned stretch of 2, 4, 8, ... that ends there turns.

        A stretch of 2^k points that ends at `index` starts at `index` with its last k bits, all
        ones, set to zero. Starts wait in the slot of their number of ones, which is free: between
        a start and the end of its stretch all others have more ones. So few have to be kept.
        """
        momentum, before = _momentum(tip), self.momenta
        self.momenta = before + momentum
        ones = index.bit_count()
        second = _Start(momentum, before, _momentum(self.tip))
        self.tip = tip
        if index == 0:
            self.first = momentum
        if index % 2 == 0:
            self._starts[ones] = second
        turned = torch.zeros_like(self.live)
        for _ in range((~index & (index + 1)).bit_length() - 1):  # as many as ones at its end
            ones -= 1
            start = self._starts[ones]
            ends = start.momentum, second.previous, second.momentum, momentum
            halves = second.before - start.before, self.momenta - second.before
            turned = turned | _turned_join(*ends, *halves, mass)
            second = start
        return turned


@dataclass(frozen=True, eq=False)
class _Start:
    """First point of a stretch: its momentum, the sum of those before it, the one before it."""

    momentum: Tensor
    before: Tensor
    previous: Tensor


def _double(run: _Run, tree: _Tree, depth: int) -> None:
    """Grow the trees that still grow by as many points as they have, in place."""
    forward = run.uniforms.coin(_WAY, depth)
    near, far = choose(forward, tree.right, tree.left), choose(forward, tree.left, tree.right)
    branch = _grow(run, tree, near, forward, depth)
    kept = branch.live
    log_u = run.uniforms.log(_HALF, depth, depth + 1)[0]
    take = kept & (log_u < branch.log_weight - tree.log_weight)
    tree.chosen = choose(take, branch.chosen, tree.chosen)
    tree.depth = tree.depth + kept
    # From here on what is written is not read again where the branch was dropped.
    tree.log_weight = torch.logaddexp(tree.log_weight, branch.log_weight)
    tree.right = choose(forward, branch.tip, tree.right)
    tree.left = choose(forward, tree.left, branch.tip)
    ends = _momentum(far), _momentum(near), branch.first, _momentum(branch.tip)
    turned = _turned_join(*ends, tree.momenta, branch.momenta, run.tuning.mass)
    tree.momenta = tree.momenta + branch.momenta
    tree.growing = kept & ~turned


def _grow(run: _Run, tree: _Tree, near: State, forward: Tensor, depth: int) -> _Branch:
    """2^depth points beyond the near end of each tree."""
    h = torch.where(forward, run.tuning.step_size, -run.tuning.step_size)
    branch = _Branch(near, tree)
    log_u = run.uniforms.log(_POINT, 1 << depth, 2 << depth)
    for index in range(1 << depth):
        # Chains that have ended stand still, so that they do not wander off to infinity.
        pace = torch.where(branch.live, h, 0.0)
        tip = leapfrog(run.density, branch.tip, pace, run.tuning.mass, energy=True)
        rise = run.record(tip, branch.live)
        branch.live = branch.live & ~run.beyond(rise)
        branch.log_weight = torch.logaddexp(branch.log_weight, -rise)
        take = log_u[index] < -rise - branch.log_weight
        branch.chosen = choose(take, tip, branch.chosen)
        branch.live = branch.live & ~branch.add(tip, index, run.tuning.mass)
        if not bool(branch.live.any()):
            break
    return branch


def _turned_join(
    far: Tensor,
    near: Tensor,
    first: Tensor,
    last: Tensor,
    before: Tensor,
    after: Tensor,
    mass: Tensor | None,
) -> Tensor:
    """Whether two adjacent stretches turn together, or either with the next point of the other.

    Without the latter, two halves just short of a U-turn could join to just more than a period of
    an oscillation, which is not seen to turn, and go round until the depth is exhausted.

    Args:
        far: momentum at the end of the first stretch that is far from the second.
        near: at the end that is near it.
        first: at the near end of the second stretch.
        last: at its far end.
        before: sum of momenta over the first stretch.
        after: sum over the second.
        mass: diagonal of the mass matrix, or None.
    """
    whole = _turned(far, last, before + after, mass)
    return (
        whole | _turned(far, first, before + first, mass) | _turned(near, last, near + after, mass)
    )


def _turned(start: Tensor, end: Tensor, total: Tensor, mass: Tensor | None) -> Tensor:
    """Whether a stretch with these momenta at its ends, and this sum of momenta, turns back."""
    way = velocity(total - 0.5 * (start + end), mass)
    return (sum_event(way * start) <= 0) | (sum_event(way * end) <= 0)


def _momentum(state: State) -> Tensor:
    if state.momentum is None:
        raise TypeError("a point of a trajectory has a momentum")
    return state.momentum
