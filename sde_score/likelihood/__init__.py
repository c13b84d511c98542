r"""Likelihoods: how probable a model finds a point, in nats and in bits per dimension.

One interface, four ways to read the same model:

=========== ================================================= ====================================
`flow`      density of the probability-flow ODE               exact up to the solver and its probes
`few-steps` the same by a given number of steps               refused where its error is too large
`bound`     the SDE's variational bound in continuous time    at most the log density of the SDE
`elbo`      the same for a chain of finitely many layers      at most the log density of the chain
=========== ================================================= ====================================

The ODE and the SDE of one model have the same distribution only if its score is exact, so their
numbers differ, and neither bounds the other. An energy without noise levels has its likelihood from
its partition function, see `log_partition`.
"""

from sde_score._core.processes import gather_rows, own_rows
from sde_score.likelihood.base import LIKELIHOODS, Estimate, Likelihood, Problem
from sde_score.likelihood.bits import BitsPerDim, bits_per_dim, energy_bits_per_dim
from sde_score.likelihood.continuous_bound import (
    TIME_SAMPLINGS,
    Bound,
    ContinuousBound,
    variational_bound,
)
from sde_score.likelihood.decoders import DataTerm, GaussianDecoder, KernelEntropy, LevelDecoder
from sde_score.likelihood.dequantization import (
    DEQUANTIZATIONS,
    Dequantization,
    Dequantized,
    VariationalDequantization,
)
from sde_score.likelihood.few_steps import (
    STEP_METHODS,
    FewSteps,
    SteppedLogProb,
    log_prob_by_steps,
)
from sde_score.likelihood.flow import DIVERGENCES, Flow, LogLikelihood, draw_probes, log_prob
from sde_score.likelihood.layered_bound import LayeredBound
from sde_score.likelihood.partition import (
    PARTITION_METHODS,
    EnergyLikelihood,
    GaussianReference,
    LogPartition,
    Reference,
    bennett,
    energy_log_prob,
    log_partition,
)
from sde_score.samplers.adaptive.ode_solvers import SOLVERS

LIKELIHOODS.fill(
    {"flow": Flow, "bound": ContinuousBound, "elbo": LayeredBound, "few-steps": FewSteps}
)

available = LIKELIHOODS.names
create = LIKELIHOODS.create
register = LIKELIHOODS.register

__all__ = [
    "DEQUANTIZATIONS",
    "DIVERGENCES",
    "LIKELIHOODS",
    "PARTITION_METHODS",
    "SOLVERS",
    "STEP_METHODS",
    "TIME_SAMPLINGS",
    "BitsPerDim",
    "Bound",
    "ContinuousBound",
    "DataTerm",
    "Dequantization",
    "Dequantized",
    "EnergyLikelihood",
    "Estimate",
    "FewSteps",
    "Flow",
    "GaussianDecoder",
    "GaussianReference",
    "KernelEntropy",
    "LayeredBound",
    "LevelDecoder",
    "Likelihood",
    "LogLikelihood",
    "LogPartition",
    "Problem",
    "Reference",
    "SteppedLogProb",
    "VariationalDequantization",
    "available",
    "bennett",
    "bits_per_dim",
    "create",
    "draw_probes",
    "energy_bits_per_dim",
    "energy_log_prob",
    "gather_rows",
    "log_partition",
    "log_prob",
    "log_prob_by_steps",
    "own_rows",
    "register",
    "variational_bound",
]
