"""Posterior: a model's distribution given an observation of it."""

from sde_score.posterior import simulation, smc
from sde_score.posterior.drawing import PARTICLES, PosteriorSamples, available, sample
from sde_score.posterior.methods import (
    CDPS,
    DPS,
    LGDMC,
    METHODS,
    MMPS,
    SDA,
    TMPD,
    Method,
    PiGDM,
    PublishedPiGDM,
)
from sde_score.posterior.named_operators import OPERATORS, operator_of
from sde_score.posterior.observations import (
    LogLikelihood,
    Measurement,
    Observation,
    Poisson,
    Spectral,
)
from sde_score.posterior.operators import (
    Composed,
    LinearFunction,
    Mask,
    Matrix,
    Operator,
)
from sde_score.posterior.physics import Physics, as_operator
from sde_score.posterior.posterior import Posterior
from sde_score.posterior.samplers import (
    DAPS,
    DDNM,
    DDRM,
    MPGD,
    SAMPLERS,
    DFlow,
    DiffPIR,
    PnPDM,
    PosteriorSampler,
    PublishedInpainting,
    REDDiff,
    RePaint,
    Replacement,
)
from sde_score.posterior.signal_operators import Blur, Fourier, Gray, MeanPool, Radon, Resize
from sde_score.posterior.spectrum import Spectrum

__all__ = [
    "CDPS",
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "LGDMC",
    "METHODS",
    "MMPS",
    "MPGD",
    "OPERATORS",
    "PARTICLES",
    "SAMPLERS",
    "SDA",
    "TMPD",
    "Blur",
    "Composed",
    "DFlow",
    "DiffPIR",
    "Fourier",
    "Gray",
    "LinearFunction",
    "LogLikelihood",
    "Mask",
    "Matrix",
    "MeanPool",
    "Measurement",
    "Method",
    "Observation",
    "Operator",
    "Physics",
    "PiGDM",
    "PnPDM",
    "Poisson",
    "Posterior",
    "PosteriorSampler",
    "PosteriorSamples",
    "PublishedInpainting",
    "PublishedPiGDM",
    "REDDiff",
    "Radon",
    "RePaint",
    "Replacement",
    "Resize",
    "Spectral",
    "Spectrum",
    "as_operator",
    "available",
    "operator_of",
    "register",
    "sample",
    "simulation",
    "smc",
]

register = METHODS.register
