"""The verbs of `sde-score`, in the order in which a reader should meet them."""

from __future__ import annotations

from typing import Any

from sde_score._core.registry import Registry
from sde_score.cli.benchmark import Benchmark
from sde_score.cli.compare import Compare
from sde_score.cli.convert import Convert, Inspect
from sde_score.cli.data import Data
from sde_score.cli.demo import Demo
from sde_score.cli.distill import Distill
from sde_score.cli.evaluate import Evaluate
from sde_score.cli.likelihood import Likelihood
from sde_score.cli.objectives import Objectives
from sde_score.cli.optimise_grid import OptimiseGrid
from sde_score.cli.plan import Plan
from sde_score.cli.posterior import Posterior
from sde_score.cli.sample import Sample
from sde_score.cli.samplers import Samplers
from sde_score.cli.train import Train
from sde_score.cli.tune import Tune

VERBS: Registry[Any] = Registry(
    "command",
    {
        "plan": Plan,
        "train": Train,
        "distill": Distill,
        "sample": Sample,
        "posterior": Posterior,
        "likelihood": Likelihood,
        "evaluate": Evaluate,
        "compare": Compare,
        "benchmark": Benchmark,
        "tune": Tune,
        "optimise-grid": OptimiseGrid,
        "convert": Convert,
        "inspect": Inspect,
        "data": Data,
        "samplers": Samplers,
        "objectives": Objectives,
        "demo": Demo,
    },
)
