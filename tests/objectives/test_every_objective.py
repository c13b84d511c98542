"""What every objective owes its caller: any event shape, any strides, either precision, randomness
from the generator alone, and tensors left as they were.

Batches are compared with the flattened problem, which has no event shape to get wrong.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

import pytest
import torch

from sde_score._core.checks import sum_event
from sde_score.models import EnergyFunction, ScoreFunction, Target
from sde_score.objectives import OBJECTIVES, FlowMapObjective, StatefulObjective
from sde_score.random import BatchSlice
from sde_score.sdes import EDM

F64 = torch.float64
EVENTS = [(), (5,), (3, 2), (2, 3, 4)]
STATELESS = [
    name
    for name, made in OBJECTIVES.items()
    if not (isinstance(made, type) and issubclass(made, StatefulObjective | FlowMapObjective))
]
# Tests of their own hold denoising, and losses that pair examples or draw as many as they like.
OWN = [
    name
    for name in STATELESS
    if OBJECTIVES[name].needs == "score" and name not in ("denoising", "stein-discrepancy")
]


def takes(name, kind, times):
    """Whether an objective takes such a model, and such times."""
    made = OBJECTIVES[name]
    if kind == "score" and made.needs == "energy":
        return False
    if times is None:
        return name not in ("target-score", "denoising")
    return name != "generalized" and "time_sampler" in inspect.signature(made).parameters


VARIANTS = [
    (name, kind, times)
    for name in STATELESS
    for kind in ("score", "energy")
    for times in (None, "uniform")
    if takes(name, kind, times)
]
SDE = EDM(sigma_min=0.1, sigma_max=3.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Round(Target):
    """N(0, I) on events of any shape."""

    shape: tuple[int, ...]

    event_shape = ()
    log_z = 0.0

    def _energy(self, x):
        return 0.5 * sum_event(x**2)

    def sample(self, count, generator=None):
        return torch.randn((count, *self.shape), generator=generator, dtype=F64)

    def checked(self, x):
        return x

    def score(self, x):
        return -x

    def diffused_log_prob(self, x, at):
        return -0.5 * sum_event(x**2) / (1 + at.t**2)

    def diffused(self, sde):
        return EnergyFunction(lambda x, t: 0.5 * sum_event(x**2) / (1 + t**2), sde)


def build(name, event, times=None):
    """The objective for such events, with times where it cannot do without."""
    settings = {"target": Round(event)} if name in ("explicit", "target-score") else {}
    if times is not None:
        settings["time_sampler"] = times
    return OBJECTIVES.create(name, **settings)


def network(kind, size, dtype):
    """A smooth network on flattened events, the same for every event shape."""
    generator, hidden = seeded(7), 6
    shapes = [(hidden, size), (1 if kind == "energy" else size, hidden)]
    w1, w2 = weights = [
        (0.5 * torch.randn(s, generator=generator, dtype=F64)).to(dtype).requires_grad_()
        for s in shapes
    ]

    def output(x, t):
        rows = x.reshape(x.shape[0], size)
        return torch.tanh(rows @ w1.mT + t.reshape(-1, 1)) @ w2.mT, rows

    def energy(x, t):
        out, rows = output(x, t)
        return out[:, 0] + 0.7 * (rows**2).sum(1)

    if kind == "energy":
        return EnergyFunction(energy, SDE), weights

    def score(x, t):
        out, rows = output(x, t)
        return (out - rows).reshape(x.shape)

    return ScoreFunction(score, SDE), weights


def data(event, dtype=F64, count=4):
    return torch.randn(count, *event, generator=seeded(1), dtype=F64).abs().to(dtype)


@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize(("name", "kind", "times"), VARIANTS)
def test_any_event_shape_has_the_loss_of_the_flattened_problem(name, kind, times, event):
    """So nothing is summed over one axis alone, nor divided by channels."""
    x0 = data(event)
    model, weights = network(kind, x0[0].numel(), F64)
    loss = build(name, event, times)(model, x0, generator=seeded(2))
    flat = x0.reshape(4, -1)
    want = build(name, (flat.shape[1],), times)(model, flat, generator=seeded(2))
    assert loss.shape == (4,)
    torch.testing.assert_close(loss, want, rtol=1e-10, atol=1e-11)
    got = torch.autograd.grad(loss.sum(), weights)
    torch.testing.assert_close(got, torch.autograd.grad(want.sum(), weights), rtol=1e-9, atol=1e-10)
    assert all(bool(g.abs().max() > 0) for g in got)


@pytest.mark.parametrize(("name", "kind", "times"), VARIANTS)
def test_strided_data_are_read_in_place_and_left_alone(name, kind, times):
    x0 = data((2, 3, 4)).transpose(1, 3)[:, ::2]
    assert not x0.is_contiguous()
    before, event = x0.clone(), tuple(x0.shape[1:])
    model, _ = network(kind, x0[0].numel(), F64)
    objective = build(name, event, times)
    loss = objective(model, x0, generator=seeded(2))
    loss.sum().backward()
    want = objective(model, x0.contiguous(), generator=seeded(2))
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(x0, before)
    assert not x0.requires_grad
    assert x0.grad is None


@pytest.mark.parametrize(("name", "kind", "times"), VARIANTS)
def test_a_caller_who_wants_gradients_of_the_data_is_not_disturbed(name, kind, times):
    x0 = data((3,)).requires_grad_()
    model, weights = network(kind, 3, F64)
    loss = build(name, (3,), times)(model, x0, generator=seeded(2))
    want = build(name, (3,), times)(model, x0.detach(), generator=seeded(2))
    torch.testing.assert_close(loss, want)
    assert all(g is not None for g in torch.autograd.grad(loss.sum(), weights))
    assert x0.grad is None


@pytest.mark.parametrize("event", [(), (3, 2)], ids=str)
@pytest.mark.parametrize(("name", "kind", "times"), [v for v in VARIANTS if v[0] in OWN])
def test_single_precision_gives_the_loss_of_double(name, kind, times, event):
    """The draws differ by precision, so those of double precision are rounded."""
    x0, made = data(event), build(name, event, times)
    exact, _ = network(kind, x0[0].numel(), F64)
    rounded, _ = network(kind, x0[0].numel(), torch.float32)
    fixed = torch.randn

    def draw(shape, **kwargs):
        dtype = kwargs.pop("dtype")
        return fixed(shape, dtype=F64, **kwargs).to(dtype)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "randn", draw)
        want = made(exact, x0, generator=seeded(2))
        got = made(rounded, x0.float(), generator=seeded(2))
    assert got.dtype == torch.float32
    assert want.dtype == F64
    torch.testing.assert_close(got.double(), want, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize(("name", "kind", "times"), VARIANTS)
def test_the_generator_decides_everything_and_nothing_else_is_drawn_from(name, kind, times):
    x0, objective = data((3, 2)), build(name, (3, 2), times)
    model, _ = network(kind, 6, F64)
    first = objective(model, x0, generator=seeded(2))
    before = torch.get_rng_state()
    assert torch.equal(objective(model, x0, generator=seeded(2)), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "kind", "times"), [v for v in VARIANTS if v[0] in OWN])
def test_two_processes_see_the_numbers_of_one(name, kind, times):
    x0, objective = data((3, 2), count=8), build(name, (3, 2), times)
    model, _ = network(kind, 6, F64)
    whole = objective(model, x0, generator=seeded(4))
    halves = [
        objective(model, x0[i : i + 4], generator=BatchSlice(seeded(4), i, 8)) for i in (0, 4)
    ]
    # A product of 4 rows may round otherwise than that of 8; differences divide by their step.
    amplified = {"score": 1e-10, "energy": 1e-7}[kind] if name == "finite-difference" else 1e-12
    torch.testing.assert_close(torch.cat(halves), whole, rtol=amplified, atol=amplified)


@pytest.mark.parametrize("name", STATELESS)
def test_the_condition_reaches_the_model_unchanged(name):
    condition, seen = torch.arange(4), []
    kind = OBJECTIVES[name].needs
    inner, _ = network(kind, 3, F64)

    def function(x, t, condition):
        seen.append(condition)
        return inner.function(x, t)

    model = (EnergyFunction if kind == "energy" else ScoreFunction)(function, SDE)
    build(name, (3,))(model, data((3,)), condition, seeded(2))
    assert seen
    assert all(c is condition for c in seen)


@pytest.mark.parametrize("name", OWN)
def test_each_says_what_it_needs_costs_and_converges_to(name):
    made = OBJECTIVES[name]
    assert made.needs == "score"
    assert "F" in made.cost
    assert made.converges_to
    assert re.search(r"(19|20)\d\d, https://", made.reference)


@pytest.mark.parametrize("name", OWN)
def test_data_that_are_no_batch_are_refused(name):
    model, _ = network("score", 3, F64)
    with pytest.raises(TypeError, match="x0 must be a floating-point tensor"):
        build(name, (3,))(model, torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="x0 must have shape"):
        build(name, (3,))(model, torch.tensor(1.0))
