"""Exact targets: distributions whose constant, samples and diffused scores are known.

`TARGETS` names them; each can be made without arguments and then lives in the plane.
`TARGETS.register("mine", Mine)` adds a target of your own, a subclass of `Target`.

name          log Z                   diffused             use
`gaussian`    closed form             closed form          formulas that can be solved by hand
`mixture`     closed form             closed form          modes of unequal weight
`ring`        closed form             one integral         a ridge that is curved
`funnel`      closed form             one integral         scales from e^-9 to e^9
`rosenbrock`  closed form             one integral         a narrow curved valley
`quartic`     closed form             one integral         no Gaussian, and log-concave
`double-well` quadrature              one integral         barriers
`exponential` closed form             closed form          an edge
`product`     sum of its parts        sum of its parts     independent parts
"""

from sde_score._core.registry import Registry
from sde_score.models.exact.double_well import DoubleWell
from sde_score.models.exact.exponential import Exponential
from sde_score.models.exact.funnel import Funnel
from sde_score.models.exact.gaussian import Gaussian, Mixture
from sde_score.models.exact.product import Product
from sde_score.models.exact.quartic import Quartic
from sde_score.models.exact.ring import Ring
from sde_score.models.exact.rosenbrock import Rosenbrock
from sde_score.models.exact.target import Diffused, Target

TARGETS: Registry[Target] = Registry(
    "target",
    {
        "gaussian": Gaussian,
        "mixture": Mixture,
        "ring": Ring,
        "funnel": Funnel,
        "rosenbrock": Rosenbrock,
        "quartic": Quartic,
        "double-well": DoubleWell,
        "exponential": Exponential,
        "product": Product,
    },
    base=Target,
    aliases={"banana": "rosenbrock", "gmm": "mixture"},
)

available = TARGETS.names
create = TARGETS.create
register = TARGETS.register

__all__ = [
    "TARGETS",
    "Diffused",
    "DoubleWell",
    "Exponential",
    "Funnel",
    "Gaussian",
    "Mixture",
    "Product",
    "Quartic",
    "Ring",
    "Rosenbrock",
    "Target",
    "available",
    "create",
    "register",
]
