"""Planning: parameters, FLOPs, memory and time of a training, measured here, estimated elsewhere.

`training_cost(config)` takes a few small steps and returns a `TrainingCost`; `estimates(cost,
Cluster(GPUS.create("h100")))` are what the training would take on 1 to 1024 GPUs.
"""

from sde_score.evaluation.planning.estimate import Cluster, Estimate, estimates
from sde_score.evaluation.planning.ledger import Ledger, Operation
from sde_score.evaluation.planning.machines import GPU, GPUS
from sde_score.evaluation.planning.measure import Line, State, TrainingCost, training_cost

__all__ = [
    "GPU",
    "GPUS",
    "Cluster",
    "Estimate",
    "Ledger",
    "Line",
    "Operation",
    "State",
    "TrainingCost",
    "estimates",
    "training_cost",
]
