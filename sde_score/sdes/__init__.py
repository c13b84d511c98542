"""Forward diffusions: how data become noise.

All of them are `N(alpha(t) x0, sigma(t)^2 I)` given the data; they differ in the two scales and in
the clock.
"""

from sde_score._core.registry import Registry
from sde_score.sdes.base import SDE, Field, Prior, of_time
from sde_score.sdes.chain import Chain
from sde_score.sdes.rectified import Rectified
from sde_score.sdes.tabulated import Tabulated
from sde_score.sdes.ve import EDM, VE
from sde_score.sdes.vp import VP, Cosine, SubVP

SDES: Registry[SDE] = Registry(
    "SDE",
    {"vp": VP, "subvp": SubVP, "cosine": Cosine, "ve": VE, "edm": EDM, "rectified": Rectified},
)

available = SDES.names
create = SDES.create

__all__ = [
    "EDM",
    "SDE",
    "SDES",
    "VE",
    "VP",
    "Chain",
    "Cosine",
    "Field",
    "Prior",
    "Rectified",
    "SubVP",
    "Tabulated",
    "available",
    "create",
    "of_time",
]
