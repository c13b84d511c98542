r"""The likelihoods by name: how probable a model finds raw data, in the terms of the data.

One interface, three ways to read the same model:

=========== ================================================= ====================================
`flow`      density of the probability-flow ODE               exact up to the solver and its probes
`bound`     the SDE's variational bound in continuous time    at most the log density of the SDE
`elbo`      the same for a chain of finitely many layers      at most the log density of the chain
=========== ================================================= ====================================

The ODE and the SDE of one model have the same law only if its score is exact, so their numbers
differ, and neither bounds the other.
"""

from __future__ import annotations

from sde_score._core.registry import Registry
from sde_score.likelihood.base import Likelihood
from sde_score.likelihood.bound_likelihoods import ContinuousBound, LayeredBound
from sde_score.likelihood.flow import Flow

LIKELIHOODS: Registry[Likelihood] = Registry(
    "likelihood", {"flow": Flow, "bound": ContinuousBound, "elbo": LayeredBound}
)

available = LIKELIHOODS.names
create = LIKELIHOODS.create
