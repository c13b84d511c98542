"""Every objective in every precision: parameter gradients near those of float64, or a refusal."""

from __future__ import annotations

import inspect
from contextlib import nullcontext

import pytest
import torch
from torch.overrides import TorchFunctionMode

from sde_score import nn
from sde_score._core.modules import rounding
from sde_score.models import EnergyModel, ScoreFunction, ScoreModel, targets
from sde_score.nn import set_second_derivatives
from sde_score.objectives import OBJECTIVES, FiniteDifferenceScoreMatching, StatefulObjective
from sde_score.random import initializing
from sde_score.sdes import VP
from sde_score.training import TrainConfig, train

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = {
    "float32": 5e-3,
    "float64 network": 5e-3,
    "float64 data": 5e-3,
    "bfloat16": 0.12,
    "float16": 0.05,
    "bfloat16 weights": 0.12,
}
"""Largest relative error of a gradient by precision."""
REFUSED = {
    ("finite-difference", "energy", precision)
    for precision in ("bfloat16", "float16", "bfloat16 weights")
}


class Rounded(TorchFunctionMode):
    """Normal draws in float64 are those in float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.randn and kwargs.get("dtype") == torch.float64:
            return func(*args, **{**kwargs, "dtype": torch.float32}).double()
        return func(*args, **kwargs)


def model_of(kind):
    with initializing(3):
        backbone = nn.create("mlp(width=16, depth=1)", (2,))
        for weight in backbone.parameters():
            if weight.ndim > 1 and not weight.any():
                torch.nn.init.kaiming_uniform_(weight, a=5**0.5)
    made = ScoreModel if kind == "score" else EnergyModel
    model = made(backbone, VP(), prediction="scaled_score")
    set_second_derivatives(model, True)
    return model


def gradient(name, kind, times, precision):
    """Of the mean loss with respect to all parameters, float64, flat."""
    x0 = torch.randn(128, 2, generator=torch.Generator().manual_seed(0))
    x0 = x0.abs() if name == "generalized" else x0
    settings = {"target": targets.Gaussian((0.5, 0.0))} if "target" in name else {}
    settings |= {"target": targets.Gaussian((0.5, 0.0))} if name == "explicit" else {}
    settings |= {"time_sampler": "uniform"} if times else {}
    objective, model = OBJECTIVES.create(name, **settings), model_of(kind)
    if isinstance(objective, StatefulObjective):
        with initializing(1):
            objective.setup(x0)
    if precision in ("float64", "float64 network"):
        model.double()
    if precision in ("float64", "float64 data"):
        x0 = x0.double()
    if precision == "bfloat16 weights":
        model.bfloat16()
    half = HALF.get(precision)
    with Rounded(), torch.autocast("cpu", half) if half else nullcontext():
        objective(model, x0, generator=torch.Generator().manual_seed(2)).mean().backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([part.double().flatten() for part in found])


PERSISTENT = ("persistent", "joint-energy")
CASES = [
    (name, kind, times)
    for name, made in OBJECTIVES.items()
    if made.needs != "flow map"  # of which some refuse half precision, by tests of their own
    for kind in (("energy",) if made.needs == "energy" else ("score", "energy"))
    for times in (False, True)
    if not times or (name != "generalized" and "time_sampler" in inspect.signature(made).parameters)
]


@pytest.mark.parametrize(("name", "kind", "times"), CASES)
def test_gradients_are_right_in_every_precision_or_refused(name, kind, times):
    # A chain that persists amplifies what its first state is rounded to.
    exact = gradient(name, kind, times, "float64 network" if name in PERSISTENT else "float64")
    for precision, most in PRECISIONS.items():
        if (name, kind, precision) in REFUSED:
            with pytest.raises(ValueError, match="lost in rounding"):
                gradient(name, kind, times, precision)
        elif name not in PERSISTENT or precision != "float64 data":
            error = gradient(name, kind, times, precision) - exact
            assert float(error.norm() / exact.norm()) < most, precision


@pytest.mark.parametrize("objective", ["finite-difference", "finite-difference(step=0.05)"])
def test_training_refuses_the_precision_before_it_begins(objective, tmp_path):
    config = TrainConfig(
        data="ring", model="energy", objective=objective, precision="bf16", steps=1
    )
    with pytest.raises(ValueError, match=r"energy over step=.*precision='float32'.*'sliced'"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_step_of_ones_own_is_accepted_where_rounding_leaves_it_right():
    model, x = model_of("score"), torch.randn(4, 2)
    small = FiniteDifferenceScoreMatching(step=1e-3)
    small(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        FiniteDifferenceScoreMatching(step=0.1)(model, x)
        with pytest.raises(ValueError, match=r"a score over step=0.001 .* a step of 0.039 or more"):
            small(model, x)
        FiniteDifferenceScoreMatching(step=0.7)(model_of("energy"), x)


def test_rounding_is_that_of_the_coarsest_numbers():
    """Autocast leaves float64 weights alone."""
    eps = {dtype: torch.finfo(dtype).eps for dtype in (*HALF.values(), torch.float32)}
    plain, x = ScoreFunction(lambda x, t: -x), torch.ones(1)
    assert rounding(plain, x) == rounding(plain.double(), x) == eps[torch.float32]
    assert rounding(model_of("score"), x.double()) == eps[torch.float32]
    assert rounding(model_of("score").bfloat16(), x) == eps[torch.bfloat16]
    assert rounding(plain, x.half()) == eps[torch.float16]
    with torch.autocast("cpu", torch.float16):
        assert rounding(plain, x) == eps[torch.float16]
        assert rounding(model_of("score").double(), x) == eps[torch.float32]
