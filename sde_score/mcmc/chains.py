"""Markov chains: warm-up, draws and diagnostics."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import require_batch, require_count
from sde_score._core.progress import progress_bar
from sde_score.mcmc.adaptation import Warmup, require_tunable
from sde_score.mcmc.diagnostics import EnergyErrors, energy_errors, ess, split_r_hat
from sde_score.mcmc.kernel import KERNELS, Kernel, State, Transition, Tuning
from sde_score.models import Density, Marginal, Model, sites_of
from sde_score.random import ExampleStreams, Noise, example_seeds


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of several chains, with their diagnostics.

    Args:
        samples: shape `(draws, chains, *event)`.
        acceptance: probability of acceptance, `(draws, chains)`; the mean over the thinned steps.
        energy_error: of the last step before each draw, in units of the temperature, `(draws,
            chains)`.
        tuning: step size and mass with which the draws were made.
        state: where the chains ended; its `x` continues them.
    """

    samples: Tensor
    acceptance: Tensor
    energy_error: Tensor
    tuning: Tuning
    state: State

    def flat(self) -> Tensor:
        """All draws of all chains as one batch, `(draws * chains, *event)`."""
        return self.samples.flatten(0, 1)

    def ess(self) -> Tensor:
        """Effective sample size of each entry, shape `event`; see `diagnostics.ess`."""
        return ess(self.samples)

    def split_r_hat(self, rank_normalized: bool = False) -> Tensor:
        """Split R-hat of each entry, shape `event`; see `diagnostics.split_r_hat`."""
        return split_r_hat(self.samples, rank_normalized)

    def energy_errors(self) -> EnergyErrors:
        """The energy errors summed up."""
        return energy_errors(self.energy_error)

    def to_arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """NumPy arrays `(chains, draws, ...)` in two groups: `posterior` with the samples `x`, and
        `sample_stats` with `acceptance_rate` and `energy_error`."""
        stats = {"acceptance_rate": self.acceptance, "energy_error": self.energy_error}
        return {
            "posterior": {"x": _chains_first(self.samples)},
            "sample_stats": {name: _chains_first(value) for name, value in stats.items()},
        }

    def to_arviz(self) -> Any:
        """The draws as ArviZ reads them, for its diagnostics and plots.

        Returns:
            a `DataTree`, or an `InferenceData` before ArviZ 1.0, of the groups of `to_arrays`.

        Raises:
            ImportError: if neither arviz nor arviz-base is installed.
        """
        try:
            from_dict = import_module("arviz_base").from_dict
        except ImportError:
            try:
                from_dict = import_module("arviz").from_dict
            except ImportError as error:
                raise ImportError(
                    "to_arviz needs the package arviz: pip install arviz; to_arrays gives the same "
                    "numbers without it"
                ) from error
        groups = self.to_arrays()
        one_argument = next(iter(inspect.signature(from_dict).parameters)) == "data"
        return from_dict(groups) if one_argument else from_dict(**groups)

    def summary(self) -> str:
        """A few lines for a person: size, acceptance, mixing, energy errors."""
        draws, chains = self.samples.shape[:2]
        accepted = self.acceptance.double().mean(0)
        step, error = self.tuning.step_size, self.energy_errors()
        lines = [
            f"{chains} chains of {draws} draws, event shape {tuple(self.samples.shape[2:])}",
            f"acceptance {accepted.mean():.3f} (chains: {accepted.min():.3f} to "
            f"{accepted.max():.3f}), step size {step.min():.3g} to {step.max():.3g}",
        ]
        if draws >= 4:
            least, most = self.ess().min(), self.split_r_hat().max()
            lines.append(f"effective draws at least {least:.0f}, split R-hat at most {most:.4f}")
        lines.append(
            f"energy error {error.mean:.3g} ± {error.std:.3g}, largest {error.largest:.3g}, "
            f"{error.divergent} divergent"
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()


def _chains_first(draws: Tensor) -> np.ndarray:
    return draws.detach().cpu().transpose(0, 1).numpy()


@torch.no_grad()
def run_chains(
    density: Density,
    start: Tensor,
    kernel: str | Kernel = "mala",
    *,
    draws: int,
    warmup: int = 0,
    thin: int = 1,
    seed: int | Sequence[int] | None = None,
    adapt: bool = True,
    adapt_mass: bool = False,
    progress: bool = True,
    noise: Noise | None = None,
) -> Chains:
    """Run one Markov chain from each row of `start`.

    Args:
        density: the target, or `Marginal(model, t)`; its score alone is enough for kernels that do
            not need the energy.
        start: shape `(chains, *event)`; left as it is.
        kernel: a name from `KERNELS`, such as `"mala(step_size=0.2)"`, or an object.
        draws: kept from each chain, at least 1.
        warmup: steps before the first draw, in which the kernel is tuned; none is kept.
        thin: steps from one kept draw to the next.
        seed: chain i depends on (seed, i) alone, not on the other chains; a sequence gives each
            chain's own seed; None draws one at random.
        adapt: during the warm-up steer the step size of each chain to `kernel.target_acceptance`,
            where the kernel is adjusted.
        adapt_mass: during the warm-up learn each chain's diagonal mass.
        progress: show a bar once it takes over two seconds.
        noise: replaces the seeded draws.

    Returns:
        the `Chains`, in at least float32.

    Raises:
        ValueError: for a count out of range, an unknown kernel, or `adapt_mass` where the kernel
            has no mass.
        TypeError: if `start` is not floating point, or the kernel needs an energy that the density
            does not have.
    """
    kernel = KERNELS.resolve(kernel)
    require_batch("start", start)
    require_count(draws=draws, thin=thin)
    require_count(0, warmup=warmup)
    x = start.detach().to(torch.promote_types(start.dtype, torch.float32)).contiguous()
    draw = noise or ExampleStreams(example_seeds(seed, x.shape[0]), x)
    walk = Walk(density, x, kernel, draw, warmup, adapt, adapt_mass)
    record = _Record(x, draws)
    total = warmup + draws * thin
    name = type(kernel).__name__
    with progress_bar(total=total, name=name, shown=progress) as bar:
        for _ in range(warmup):
            walk.step()
            bar.update()
        for index in range(draws):
            for _ in range(thin):
                record.add(index, walk.step(), 1 / thin)
                bar.update()
    return Chains(record.samples, record.acceptance, record.energy_error, walk.tuning, walk.state)


class _Record:
    """Memory for the draws, allocated once."""

    def __init__(self, x: Tensor, draws: int) -> None:
        self.samples = x.new_empty((draws, *x.shape))
        self.acceptance = x.new_zeros((draws, x.shape[0]))
        self.energy_error = x.new_empty((draws, x.shape[0]))

    def add(self, index: int, transition: Transition, share: float) -> None:
        """Record a step towards draw `index`; the last one is the draw."""
        self.samples[index] = transition.state.x
        self.acceptance[index].add_(transition.acceptance, alpha=share)
        self.energy_error[index] = transition.energy_error


class Walk:
    """Chains, moved one step at a time and tuned in the first `warmup` steps.

    Args:
        density: the target.
        x: positions `(chains, *event)`; left as they are.
        kernel: moves the chains.
        noise: source of draws.
        warmup: steps in which the kernel is tuned.
        adapt: tune the step size of an adjusted kernel.
        adapt_mass: tune the mass.

    Raises:
        ValueError: for `adapt_mass` where the kernel has no mass.
        TypeError: if the kernel needs an energy that the density does not have.
    """

    def __init__(
        self,
        density: Density,
        x: Tensor,
        kernel: Kernel,
        noise: Noise,
        warmup: int = 0,
        adapt: bool = True,
        adapt_mass: bool = False,
    ) -> None:
        require_tunable(kernel, adapt_mass)
        _require_known(density, kernel)
        self._density, self._kernel, self._noise = density, kernel, noise
        self._left = warmup
        self._tuner = Warmup(kernel, x, warmup, adapt, adapt_mass)
        self.state = kernel.start(density, x, noise)

    @property
    def tuning(self) -> Tuning:
        """Step size and mass of the next step."""
        return self._tuner.tuning

    def step(self) -> Transition:
        """Move every chain once."""
        transition = self._kernel.step(self._density, self.state, self._noise, self.tuning)
        self.state = transition.state
        if self._left:
            self._left -= 1
            self.state = self._tuner.update(transition)
        return transition


def _require_known(density: Density, kernel: Kernel) -> None:
    """Refuse a density without the energy that the kernel needs."""
    if isinstance(density, Model):
        raise TypeError(
            f"{type(density).__name__} is a model, with a distribution for each time; accepted: a "
            "density, such as Marginal(model, t)"
        )
    if sites_of(density) is not None and not kernel.discrete:
        raise TypeError(
            f"{type(density).__name__} has discrete states and {type(kernel).__name__} moves on "
            "continuous spaces; accepted: gibbs, gibbs-gradients"
        )
    known = density.has_energy if isinstance(density, Marginal) else isinstance(density, Density)
    if kernel.needs_energy and not known:
        owner = density.model if isinstance(density, Marginal) else density
        raise TypeError(
            f"{type(kernel).__name__} needs an energy and {type(owner).__name__} has a score "
            "alone; accepted: an energy-based model, or a kernel that follows the score: "
            "mala-score, ula, baoab, obabo"
        )
