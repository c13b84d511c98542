"""Samplers of other libraries as entries of the benchmark, where they are installed.

Each starts from the same noise as ours and asks the same model, through `Oracle`, which counts.
They run with their own defaults, on their own grids, from the noise ratio of the start down.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sde_score.evaluation import BenchmarkTarget, Entry

SIGMA_MIN = 0.002  # the end of grids over the noise ratio, EDM's

Run = Callable[["Oracle", Tensor, int], Tensor]
"""From y = x / alpha at the largest noise ratio to data, with a number of evaluations."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """A target in the form of other libraries: E[x0 | y] at a noise ratio s, with y = x / alpha."""

    target: BenchmarkTarget
    condition: Tensor | None
    seed: int

    def __call__(self, y: Tensor, ratio: Tensor | float) -> Tensor:
        sde = self.target.model.sde
        log_snr = -2 * torch.as_tensor(ratio, dtype=torch.float64).log()
        t = sde.time_of_log_snr(log_snr).clamp(sde.t_min, sde.t_max)
        return self.target.model.denoise(y * sde.alpha(t).to(y), t, self.condition)

    @property
    def largest(self) -> float:
        """Noise ratio of the start."""
        sde = self.target.model.sde
        return float(torch.exp(-0.5 * sde.log_snr(sde.t_max)))


@dataclass(frozen=True)
class Peer:
    """A sampler of another library on one of its grids."""

    library: str
    sampler: str
    grid: str
    run: Run
    stochastic: bool = False


def entries(nfes: Sequence[int]) -> list[Entry]:
    """All peers that are installed, at every budget."""
    found = []
    for peer in peers():
        if importlib.util.find_spec(peer.library) is None:
            continue
        version = importlib.import_module(peer.library).__version__
        for nfe in sorted(set(nfes)):
            spec = f"{peer.sampler} [{peer.grid}] {version} nfe={nfe}"
            draw = partial(_draw, peer.run, nfe)
            found.append(
                Entry(peer.sampler, peer.grid, spec, peer.stochastic, draw, nfe, peer.library)
            )
    return found


def _draw(
    run: Run, nfe: int, target: BenchmarkTarget, start: Tensor, seeds: Sequence[int],
    condition: Tensor | None,
) -> Tensor:  # fmt: skip
    sde = target.model.sde
    y = start / sde.alpha(sde.t_max).to(start)
    # Peers draw for the whole batch; numpy and torch seeds have 32 bits in some of them.
    return run(Oracle(target, condition, seeds[0] % 2**32), y, nfe)


def peers() -> Iterator[Peer]:
    """The samplers compared, installed or not."""
    for order in (2, 3):
        for schedule in ("Rectified", "Elucidated", "Cosine", "VE", "VP"):
            for kind in ("vAB", "zEAB", "xEAB"):
                run = partial(azula, f"{kind}Sampler", schedule, {"order": order})
                yield Peer("azula", f"{kind}{order}", schedule, run)
    for schedule in ("Rectified", "Elucidated"):
        for name, kind, options in (("DDIM", "DDIM", {}), ("DDPM", "DDPM", {})):
            run = partial(azula, f"{kind}Sampler", schedule, options)
            yield Peer("azula", name, schedule, run, stochastic=name == "DDPM")
    for grid in ("karras", "exponential"):
        for order in (2, 3):
            run = partial(diffusers_edm, order, "dpmsolver++", grid)
            yield Peer("diffusers", f"EDM-DPM++{order}M", grid, run)
        run = partial(diffusers_edm, 2, "sde-dpmsolver++", grid)
        yield Peer("diffusers", "EDM-SDE-DPM++2M", grid, run, stochastic=True)
    for grid in LEVELS:
        for name, kind, options in DIFFUSERS:
            run = partial(diffusers_vp, kind, options, grid)
            yield Peer("diffusers", name, f"vp-{grid} exact-sigma", run, "SDE" in name)
        for name in ("Euler", "LMS", "Heun"):
            yield Peer("diffusers", name, f"ve-{grid}", partial(diffusers_ve, name, grid))


LEVELS = ("karras", "exponential", "beta", "flow")
"""Grids of diffusers; its `lu` is `exponential` in other words."""

LOWER = {"lower_order_final": True}  # which the single-step methods set themselves, with a word

DIFFUSERS = (
    ("DPM++2M", "DPMSolverMultistep", {"solver_order": 2}),
    ("DPM++3M", "DPMSolverMultistep", {"solver_order": 3}),
    ("SDE-DPM++2M", "DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
    ("UniPC2", "UniPCMultistep", {"solver_order": 2}),
    ("UniPC3", "UniPCMultistep", {"solver_order": 3}),
    ("DPM2M", "DPMSolverMultistep", {"algorithm_type": "dpmsolver"}),
    ("DPM++2S", "DPMSolverSinglestep", {"solver_order": 2, **LOWER}),
    ("DPM++3S", "DPMSolverSinglestep", {"solver_order": 3, **LOWER}),
    ("DEIS2", "DEISMultistep", {"solver_order": 2}),
    ("DEIS3", "DEISMultistep", {"solver_order": 3}),
)


def azula(name: str, schedule: str, options: dict, oracle: Oracle, y: Tensor, nfe: int) -> Tensor:
    """A sampler of azula: n steps, n evaluations, to the end of its schedule."""
    from azula import sample
    from azula.denoise import DiracPosterior

    noise_levels = _schedule(schedule, oracle.largest)

    class Denoiser(torch.nn.Module):
        """The oracle in azula's terms."""

        schedule = noise_levels

        def forward(self, x: Tensor, t: Tensor) -> DiracPosterior:
            alpha, sigma = self.schedule(t)
            return DiracPosterior(mean=oracle(x / alpha.to(x), sigma / alpha))

    torch.manual_seed(oracle.seed)
    denoiser = Denoiser()
    kind = getattr(sample, name)
    sampler = kind(denoiser, steps=nfe, silent=True, dtype=torch.float64, **options)
    alpha, _ = denoiser.schedule(torch.ones((), dtype=torch.float64))
    end, _ = denoiser.schedule(torch.zeros((), dtype=torch.float64))
    return sampler(alpha.to(y) * y) / end.to(y)


def _schedule(name: str, largest: float) -> object:
    """A schedule of azula that starts at the noise ratio `largest`."""
    from azula import noise

    if name == "Elucidated":
        from azula.plugins.edm import ElucidatedSchedule

        return ElucidatedSchedule(SIGMA_MIN, largest)
    if name == "VE":
        return noise.VESchedule(SIGMA_MIN, largest)
    kind = getattr(noise, f"{name}Schedule")
    low, high = 1e-6, 1.0  # of alpha_min, with which the ratio at time 1 falls
    one = torch.ones((), dtype=torch.float64)
    for _ in range(80):
        middle = math.sqrt(low * high)
        alpha, sigma = kind(alpha_min=middle)(one)
        low, high = (middle, high) if sigma / alpha > largest else (low, middle)
    return kind(alpha_min=low)


def diffusers_edm(
    order: int, algorithm: str, grid: str, oracle: Oracle, y: Tensor, nfe: int
) -> Tensor:
    """A multistep solver on EDM's own scheduler; its preconditioning is undone."""
    from diffusers import EDMDPMSolverMultistepScheduler

    scheduler = EDMDPMSolverMultistepScheduler(
        sigma_min=SIGMA_MIN, sigma_max=oracle.largest, solver_order=order,
        algorithm_type=algorithm, sigma_schedule=grid,
    )  # fmt: skip
    scheduler.set_timesteps(nfe)
    generator = torch.Generator().manual_seed(oracle.seed)
    for index, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[index].double()
        mean = oracle(y, sigma)
        data = scheduler.config.sigma_data
        skip = data**2 / (sigma**2 + data**2)
        out = sigma * data / (sigma**2 + data**2).sqrt()
        y = scheduler.step((mean - skip * y) / out, t, y, generator=generator).prev_sample.to(y)
    return y


def diffusers_vp(
    kind: str, options: dict, grid: str, oracle: Oracle, y: Tensor, nfe: int
) -> Tensor:
    """A multistep solver on the VP scale, on noise levels of the start's own range down to 0."""
    import diffusers

    # DEIS and DPM-Solver take the logarithm of the last level, so they cannot go to zero noise.
    ends_at_data = not kind.startswith("DEIS") and options.get("algorithm_type") != "dpmsolver"
    if not ends_at_data and not kind.startswith("DEIS"):
        options = {**options, "final_sigmas_type": "sigma_min"}
    scheduler = getattr(diffusers, f"{kind}Scheduler")(prediction_type="sample", **options)
    scheduler.set_timesteps(nfe)
    scheduler.set_begin_index(0)
    levels = _levels(grid, oracle.largest, nfe if ends_at_data else nfe + 1)
    scheduler.sigmas = torch.cat([levels, levels.new_zeros(1)]) if ends_at_data else levels
    generator = torch.Generator().manual_seed(oracle.seed)
    extra = {"generator": generator} if "sde" in options.get("algorithm_type", "") else {}
    x = y / math.sqrt(1 + oracle.largest**2)
    for index, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[index].double()
        mean = oracle(x * (1 + sigma**2).sqrt(), sigma)
        x = scheduler.step(mean, t, x, **extra).prev_sample.to(x)
    return x * (1 + scheduler.sigmas[-1] ** 2).sqrt()


def diffusers_ve(kind: str, grid: str, oracle: Oracle, y: Tensor, nfe: int) -> Tensor:
    """A method in the noise itself, on the same levels."""
    import diffusers

    steps = (nfe + 1) // 2 if kind == "Heun" else nfe
    scheduler = getattr(diffusers, f"{kind}DiscreteScheduler")(prediction_type="sample")
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    levels = _levels(grid, oracle.largest, steps)
    if kind == "Heun":
        levels = torch.cat([levels[:1], levels[1:].repeat_interleave(2)])
    scheduler.sigmas = torch.cat([levels, levels.new_zeros(1)])
    for index, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(y, t)
        y = scheduler.step(oracle(y, scheduler.sigmas[index]), t, y).prev_sample.to(y)
    return y


def _levels(grid: str, largest: float, count: int) -> Tensor:
    """Noise ratios, decreasing, zero noise not among them."""
    share = torch.linspace(0, 1, count, dtype=torch.float64)
    if grid == "exponential":
        return largest * (SIGMA_MIN / largest) ** share
    if grid == "beta":
        from scipy.stats import beta

        share = torch.as_tensor(beta.ppf(1 - share.numpy(), 0.6, 0.6))
        return SIGMA_MIN + (largest - SIGMA_MIN) * share
    if grid == "flow":  # even in rectified time, the step to the data as long as the others
        time = largest / (1 + largest) * (1 - torch.arange(count, dtype=torch.float64) / count)
        return time / (1 - time)
    first, last = largest ** (1 / 7), SIGMA_MIN ** (1 / 7)
    return (first + share * (last - first)) ** 7
