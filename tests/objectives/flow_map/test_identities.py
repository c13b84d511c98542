"""Losses of flow maps: zero at the closed-form map of Gaussian data, gradients by differences."""

import math
from dataclasses import replace

import pytest
import torch

from sde_score import nn
from sde_score.models import FlowMap, GaussianFlowMap, GaussianMixture
from sde_score.objectives import OBJECTIVES
from sde_score.random import BatchSlice, drawing_from
from sde_score.sdes import EDM, VP, Rectified

F64 = torch.float64
NAMES = ["mean-flow", "lagrangian", "semigroup", "consistency"]
SDES = [VP(), EDM(), Rectified()]
MEAN, COVARIANCE = torch.tensor([0.5, -0.3]), torch.tensor([[1.5, 0.6], [0.6, 0.5]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(count):
    return GaussianMixture(MEAN[None], COVARIANCE[None], VP()).sample(count, generator=seeded(3))


def network(sde, seed=0, dropout=0.0):
    torch.manual_seed(seed)
    made = nn.tell_end(nn.create(f"mlp(width=8, depth=1, dropout={dropout})", (2,))).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return FlowMap(made, sde, sigma_data=0.8)


@pytest.mark.parametrize("sde", SDES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_zero_at_the_closed_form_and_there_alone(name, sde):
    exact = GaussianFlowMap(MEAN, COVARIANCE, sde, 0.8)
    objective = OBJECTIVES.create(name, teacher=exact)
    loss = objective(exact, data(64), generator=seeded())
    assert loss.shape == (64,)
    assert loss.max() < 1e-18
    wrong = GaussianFlowMap(MEAN, 1.1 * COVARIANCE, sde, 0.8)
    assert objective(wrong, data(64), generator=seeded()).mean() > 1e-6


class Tilted(GaussianFlowMap):
    """The closed form plus a parameter times z, times (theta_t - theta_s) off the diagonal."""

    def __init__(self, *args):
        super().__init__(*args)
        self.tilt = torch.nn.Parameter(torch.zeros(2, dtype=F64))

    def _predict_to(self, x, at, to, condition):
        size = at.spread.reshape(-1, 1)
        gap = (at.sigma / at.alpha).atan() - (to.sigma / to.alpha).atan()
        change = self.tilt[0] + self.tilt[1] * gap.reshape(-1, 1)
        return super()._predict_to(x, at, to, condition) + change * x / size


@pytest.mark.parametrize("name", ["mean-flow", "lagrangian", "semigroup"])
def test_learned_from_data_the_closed_form_is_where_the_gradient_vanishes(name):
    model = Tilted(MEAN, COVARIANCE, VP(), 0.8)
    loss = OBJECTIVES.create(name)(model, data(5000), generator=seeded())
    gradients = [torch.autograd.grad(loss[i::50].mean(), model.tilt, retain_graph=True)[0]
                 for i in range(50)]  # fmt: skip
    mean, error = torch.stack(gradients).mean(0), torch.stack(gradients).std(0) / 50**0.5
    assert bool((mean.abs() < 4 * error + 1e-9).all())


@pytest.mark.parametrize("sde", SDES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(name, sde):
    """What has no gradient is held where it was."""
    model, fixed, objective = network(sde), network(sde), OBJECTIVES.create(name, share=0.5)
    pair = objective.draw(model, data(6), None, seeded(1))
    assert 0 < int(pair.diagonal.sum()) < 6
    loss = (objective.residual(model, fixed, pair) ** 2).sum()
    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss, weights)
    whole = objective(model, data(6), generator=seeded(1)).sum()
    torch.testing.assert_close(whole, loss / 2)
    torch.testing.assert_close(
        torch.autograd.grad(whole, weights), tuple(gradient / 2 for gradient in gradients)
    )
    step = 1e-6
    for weight, gradient in list(zip(weights, gradients, strict=True))[::4]:
        direction = torch.randn(weight.shape, generator=seeded(4), dtype=F64)
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                weight += sign * step * direction
                ends.append((objective.residual(model, fixed, pair) ** 2).sum())
                weight -= sign * step * direction
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["mean-flow", "lagrangian"])
def test_a_central_difference_stands_for_forward_mode(name):
    model, x0 = network(EDM()), data(8)
    exact, near = (
        OBJECTIVES.create(name, difference=h)(model, x0, generator=seeded()) for h in (0.0, 1e-4)
    )
    torch.testing.assert_close(exact, near, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_all_evaluations_of_an_example_see_the_same_dropout_mask(name):
    """At the exact map a mask would not matter; here the pair is one point, seen twice."""
    model = network(VP(), dropout=0.5)
    objective = OBJECTIVES.create(name, share=1.0)
    with drawing_from(seeded(5)):
        first = objective(model, data(4), generator=seeded())
    with drawing_from(seeded(5)):
        again = objective(model, data(4), generator=seeded())
    assert torch.equal(first, again)
    point = objective.draw(model, data(4), None, seeded())
    near = replace(point, s=point.t * (1 - 1e-9), velocity=None)
    seen = []
    inner = model.mean_velocity
    model.mean_velocity = lambda *a: seen.append(inner(*a)) or seen[-1]
    with drawing_from(seeded(5)):
        whole = replace(near, velocity=torch.zeros_like(near.z))
        objective.residual(model, model, whole)
    values = [
        v
        for v in seen
        if type(v) is torch.Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(v)
    ]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=0.05, atol=0.02)


def test_two_processes_see_the_numbers_of_one_and_share_is_a_share():
    model, x0 = network(VP()), data(8)
    objective = OBJECTIVES.create("mean-flow")
    whole = objective(model, x0, generator=seeded(4))
    halves = [
        objective(model, x0[i : i + 4], generator=BatchSlice(seeded(4), i, 8)) for i in (0, 4)
    ]
    torch.testing.assert_close(torch.cat(halves), whole)
    pair = OBJECTIVES.create("semigroup", share=0.25).draw(model, data(4000), None, seeded())
    assert (~pair.diagonal).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert bool((pair.s <= pair.t).all())


def test_refusals_name_the_argument():
    x0, plain = data(4), GaussianMixture(MEAN[None], COVARIANCE[None], VP())
    with pytest.raises(TypeError, match=r"model is a GaussianMixture.*FlowMap\.from_model"):
        OBJECTIVES.create("mean-flow")(plain, x0)
    with pytest.raises(ValueError, match=r"share=2 must lie in \[0, 1\]"):
        OBJECTIVES.create("semigroup", share=2)
    with pytest.raises(ValueError, match=r"gap=0.2 must lie"):
        OBJECTIVES.create("consistency", gap=0.2)
    with pytest.raises(TypeError, match=r"teacher"):
        OBJECTIVES.create("mean-flow", teacher=3)
    for name in ("mean-flow", "lagrangian"):
        with pytest.raises(ValueError, match=r"precision='float32'"):
            OBJECTIVES.create(name).require_precision(network(VP()), 4e-3)
    assert math.isfinite(OBJECTIVES.create("ect", teacher=plain)(network(VP()), x0).mean().item())
