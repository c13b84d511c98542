"""Markov chain Monte Carlo on any density: kernels, chains and their diagnostics."""

from sde_score.samplers.mcmc.annealing import (
    annealed_variance,
    choose_step_ratio,
    choose_step_ratios,
    choose_steps_each,
)
from sde_score.samplers.mcmc.chains import Chains, run_chains
from sde_score.samplers.mcmc.diagnostics import EnergyErrors, energy_errors, ess, split_r_hat
from sde_score.samplers.mcmc.hmc import HMC
from sde_score.samplers.mcmc.kernel import Kernel, State, Transition, Tuning
from sde_score.samplers.mcmc.kernels import KERNELS
from sde_score.samplers.mcmc.langevin import MALA, ULA
from sde_score.samplers.mcmc.line_integral import ScoreMALA
from sde_score.samplers.mcmc.nuts import NUTS, NUTSTransition
from sde_score.samplers.mcmc.tempering import TemperedState, Tempering
from sde_score.samplers.mcmc.underdamped import BAOAB, OBABO

__all__ = [
    "BAOAB",
    "HMC",
    "KERNELS",
    "MALA",
    "NUTS",
    "OBABO",
    "ULA",
    "Chains",
    "EnergyErrors",
    "Kernel",
    "NUTSTransition",
    "ScoreMALA",
    "State",
    "TemperedState",
    "Tempering",
    "Transition",
    "Tuning",
    "annealed_variance",
    "choose_step_ratio",
    "choose_step_ratios",
    "choose_steps_each",
    "energy_errors",
    "ess",
    "run_chains",
    "split_r_hat",
]
