"""All kernels by name."""

from __future__ import annotations

from sde_score._registry import Registry
from sde_score.samplers.mcmc.hmc import HMC
from sde_score.samplers.mcmc.kernel import Kernel
from sde_score.samplers.mcmc.langevin import MALA, ULA
from sde_score.samplers.mcmc.line_integral import ScoreMALA
from sde_score.samplers.mcmc.nuts import NUTS
from sde_score.samplers.mcmc.tempering import Tempering
from sde_score.samplers.mcmc.underdamped import BAOAB, OBABO

KERNELS: Registry[Kernel] = Registry(
    "kernel",
    {
        "ula": ULA,
        "mala": MALA,
        "mala-score": ScoreMALA,
        "baoab": BAOAB,
        "obabo": OBABO,
        "hmc": HMC,
        "nuts": NUTS,
        "tempering": Tempering,
    },
)


def as_kernel(kernel: str | Kernel) -> Kernel:
    """A kernel from its spec, such as `"mala(step_size=0.2)"`, or the object itself.

    Raises:
        ValueError: for an unknown name, or an argument that the kernel does not take.
    """
    return KERNELS.create(kernel) if isinstance(kernel, str) else kernel
