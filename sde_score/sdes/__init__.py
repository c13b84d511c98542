"""Forward diffusions, from data to noise.

All of them are `N(alpha(t) x0, sigma(t)^2 I)` given the data; they differ in the two scales.
"""

from sde_score.sdes.base import SDE, SDES, Field, Prior, of_time
from sde_score.sdes.chains import betas_of, chain
from sde_score.sdes.rectified import Rectified
from sde_score.sdes.tabulated import Tabulated
from sde_score.sdes.ve import EDM, VE
from sde_score.sdes.vp import VP, Cosine, SubVP

SDES.fill(
    {
        "vp": VP,
        "subvp": SubVP,
        "cosine": Cosine,
        "ve": VE,
        "edm": EDM,
        "rectified": Rectified,
        "chain": chain,
    },
    aliases={"vpsde": "vp", "subvpsde": "subvp", "vesde": "ve", "rectified-flow": "rectified"},
)

available = SDES.names
create = SDES.create
register = SDES.register

__all__ = [
    "EDM",
    "SDE",
    "SDES",
    "VE",
    "VP",
    "Cosine",
    "Field",
    "Prior",
    "Rectified",
    "SubVP",
    "Tabulated",
    "available",
    "betas_of",
    "chain",
    "create",
    "of_time",
    "register",
]
