"""Markov chain Monte Carlo on any density: kernels, chains and their diagnostics."""

from sde_score.mcmc.chains import Chains, run_chains
from sde_score.mcmc.diagnostics import EnergyErrors, energy_errors, ess, split_r_hat
from sde_score.mcmc.discrete import BlockGibbs, DiscreteKernel, GibbsWithGradients
from sde_score.mcmc.hmc import HMC
from sde_score.mcmc.kernel import KERNELS, Kernel, State, Transition, Tuning
from sde_score.mcmc.langevin import MALA, ULA
from sde_score.mcmc.nuts import NUTS, NUTSTransition
from sde_score.mcmc.score_mala import ScoreMALA
from sde_score.mcmc.tempering import TemperedState, Tempering
from sde_score.mcmc.underdamped import BAOAB, OBABO

KERNELS.fill(
    {
        "ula": ULA,
        "mala": MALA,
        "mala-score": ScoreMALA,
        "baoab": BAOAB,
        "obabo": OBABO,
        "hmc": HMC,
        "nuts": NUTS,
        "tempering": Tempering,
        "gibbs": BlockGibbs,
        "gibbs-gradients": GibbsWithGradients,
    },
    aliases={"gwg": "gibbs-gradients"},
)

available = KERNELS.names
create = KERNELS.create
register = KERNELS.register

__all__ = [
    "BAOAB",
    "HMC",
    "KERNELS",
    "MALA",
    "NUTS",
    "OBABO",
    "ULA",
    "BlockGibbs",
    "Chains",
    "DiscreteKernel",
    "EnergyErrors",
    "GibbsWithGradients",
    "Kernel",
    "NUTSTransition",
    "ScoreMALA",
    "State",
    "TemperedState",
    "Tempering",
    "Transition",
    "Tuning",
    "available",
    "create",
    "energy_errors",
    "ess",
    "register",
    "run_chains",
    "split_r_hat",
]
