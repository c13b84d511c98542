"""Maps from data to noise, and their log-determinants: against the closed form of a Gaussian."""

import pytest
import torch

from sde_score import nn
from sde_score.likelihood import log_prob_by_steps
from sde_score.models import FlowMap, GaussianFlowMap, LogDetFlowMap, LogDetModel, stretch_clock
from sde_score.objectives import OBJECTIVES, LogDet
from sde_score.sdes import EDM, VP, Rectified

F64 = torch.float64
SDES = [VP(), EDM(), Rectified()]
MEAN, COVARIANCE = torch.tensor([0.5, -0.3]), torch.tensor([[1.5, 0.6], [0.6, 0.5]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def exact(sde=EDM(), kind=GaussianFlowMap):  # noqa: B008
    return kind(MEAN, COVARIANCE, sde, 0.8)


def data(count):
    return exact().data.sample(count, generator=seeded(3))


@pytest.mark.parametrize("sde", SDES, ids=str)
def test_the_log_determinant_of_the_closed_form_is_that_of_its_jacobian(sde):
    model, x = exact(sde), data(3)
    assert isinstance(model, LogDetModel)
    for t, s in ((0.9, 0.2), (0.1, 0.8)):
        jacobian = torch.autograd.functional.jacobian(
            lambda y, t=t, s=s: model.flow(y, t, s), x[:1]
        )
        truth = jacobian.reshape(2, 2).det().log()
        torch.testing.assert_close(model.log_det(x, t, s), truth.expand(3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["mean-flow", "lagrangian", "semigroup"])
def test_maps_are_learned_upward_too(name):
    model = exact()
    objective = OBJECTIVES.create(name, teacher=model, upward=0.5)
    pair = objective.draw(model, data(400), None, seeded())
    up, down = (int((sign * (pair.s - pair.t) > 0).sum()) for sign in (1, -1))
    assert 110 < up < 190
    assert 110 < down < 190
    assert objective(model, data(64), generator=seeded()).max() < 1e-18
    wrong = GaussianFlowMap(MEAN, 1.1 * COVARIANCE, EDM(), 0.8)
    assert objective(wrong, data(64), generator=seeded()).mean() > 1e-6


class Tilted(GaussianFlowMap):
    """The closed form, with parameters times the way and times where it begins."""

    def __init__(self, *args):
        super().__init__(*args)
        self.tilt = torch.nn.Parameter(torch.zeros(2, dtype=F64))

    def log_det(self, x, t, s, condition=None):
        clock = stretch_clock(self.sigma_data)
        first, last = (clock.at(self.sde, time) for time in (t, s))
        known = GaussianFlowMap.log_det(self, x, t, s).detach()
        return known + 2 * (last - first) * (self.tilt[0] + self.tilt[1] * first)


@pytest.mark.parametrize("sde", SDES, ids=str)
def test_the_gradient_vanishes_at_the_log_determinant_of_the_flow_alone(sde):
    """The divergence at one random point of the way is the mean of the way, without bias."""
    model, objective, x0 = exact(sde, Tilted), LogDet(), data(20000)
    for offset, vanishes in ((0.0, True), (0.02, False)):
        model.tilt.data[0] = offset
        loss = objective(model, x0, generator=seeded())
        parts = [torch.autograd.grad(loss[i::20].mean(), model.tilt, retain_graph=True)[0]
                 for i in range(20)]  # fmt: skip
        mean, error = torch.stack(parts).mean(0), torch.stack(parts).std(0) / 20**0.5
        assert bool((mean.abs() < 4 * error).all()) == vanishes


def test_a_learned_log_determinant_gives_the_density_by_two_steps():
    torch.manual_seed(0)
    flow_map = GaussianFlowMap(MEAN, 0.02, EDM(), 0.4)
    network = nn.tell_end(nn.create("mlp(width=32, depth=1)", (2,)))
    model, sample = LogDetFlowMap(flow_map, network), flow_map.data.sample
    x = sample(64, generator=seeded(5))
    still = model.flow(x, 1.0, 0.1).clone()
    untrained = log_prob_by_steps(model, x, 2, method="flow-map", tolerance=None)
    adam, objective = torch.optim.Adam(network.parameters(), 1e-2), LogDet(divergence="exact")
    for step in range(200):
        adam.param_groups[0]["lr"] = 1e-2 * (1 - step / 200)
        adam.zero_grad()
        x0 = sample(256, generator=seeded(step)).float()
        objective(model, x0, generator=seeded(step)).mean().backward()
        adam.step()
    torch.testing.assert_close(model.flow(x, 1.0, 0.1), still)
    found = log_prob_by_steps(model, x, 2, method="flow-map", tolerance=0.2)
    truth = log_prob_by_steps(flow_map, x, 2, method="flow-map", checked=0).log_prob
    assert (found.log_prob - truth).abs().mean() < 0.2
    assert (untrained.log_prob - truth).abs().mean() > 1
    assert not model.log_det(x, 0.3, 0.3).any()


def test_the_flow_map_is_a_copy_that_is_not_trained():
    network = nn.tell_end(nn.create("mlp(width=8, depth=1)", (2,)))
    flow_map = FlowMap(network, EDM())
    model = LogDetFlowMap(flow_map, network)
    LogDet()(model, data(4).float(), generator=seeded()).sum().backward()
    assert not any(weight.requires_grad for weight in model.flow_map.parameters())
    assert all(weight.requires_grad for weight in flow_map.parameters())


def test_what_has_no_log_determinant_is_refused():
    network = nn.tell_end(nn.create("mlp(width=8, depth=1)", (2,)))
    with pytest.raises(TypeError, match=r"model is a FlowMap.*LogDetFlowMap"):
        LogDet()(FlowMap(network, EDM()), data(2), generator=seeded())
    with pytest.raises(TypeError, match=r"flow_map is a Linear.*upward=0\.5"):
        LogDetFlowMap(torch.nn.Linear(2, 2), network)
    with pytest.raises(ValueError, match=r"upward=0\.5: this objective goes to the data alone"):
        OBJECTIVES.create("consistency", upward=0.5)
    with pytest.raises(ValueError, match=r"upward=2"):
        OBJECTIVES.create("mean-flow", upward=2.0)
