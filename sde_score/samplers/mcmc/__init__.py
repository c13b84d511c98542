"""Markov chain Monte Carlo on any density: kernels, chains and their diagnostics."""

from sde_score._registry import Registry
from sde_score.samplers.mcmc.kernel import Kernel, State, Transition, Tuning
from sde_score.samplers.mcmc.langevin import MALA, ULA

KERNELS: Registry[Kernel] = Registry("kernel", {"ula": ULA, "mala": MALA})

__all__ = ["KERNELS", "MALA", "ULA", "Kernel", "State", "Transition", "Tuning"]
