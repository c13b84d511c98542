"""Samplers of posteriors: methods whose steps, and not the score alone, know the observation."""

from functools import partial

from sde_score.posterior.samplers.base import SAMPLERS, PosteriorSampler
from sde_score.posterior.samplers.inpainting import PublishedInpainting
from sde_score.posterior.samplers.mpgd import MPGD
from sde_score.posterior.samplers.replacement import RePaint, Replacement
from sde_score.posterior.samplers.restoration import DDNM, DDRM, DiffPIR
from sde_score.posterior.samplers.searches import DFlow, REDDiff
from sde_score.posterior.samplers.split import DAPS, PnPDM

SAMPLERS.fill(
    {
        "replacement": Replacement,
        "repaint": RePaint,
        "pc-inpaint": partial(Replacement, predictor="reverse-diffusion", corrector="langevin"),
        "pc-inpaint-published": PublishedInpainting,
        "ddrm": DDRM,
        "ddnm": DDNM,
        "diffpir": DiffPIR,
        "pnp-dm": PnPDM,
        "daps": DAPS,
        "mpgd": MPGD,
        "red-diff": REDDiff,
        "d-flow": DFlow,
    }
)

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "MPGD",
    "SAMPLERS",
    "DFlow",
    "DiffPIR",
    "PnPDM",
    "PosteriorSampler",
    "PublishedInpainting",
    "REDDiff",
    "RePaint",
    "Replacement",
]
