"""Steps of flow maps: exact where the map is, one evaluation each, and refused elsewhere."""

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianFlowMap, GaussianMixture
from sde_score.sdes import EDM, VP, Rectified

MEAN, COVARIANCE = torch.tensor([0.5, -0.3]), torch.tensor([[1.5, 0.6], [0.6, 0.5]])


@pytest.mark.parametrize("sde", [VP(), EDM(), Rectified()], ids=str)
def test_one_two_and_four_steps_of_an_exact_map_are_the_flow(sde):
    exact = GaussianFlowMap(MEAN, COVARIANCE, sde)
    start = sde.prior_std * torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    one, two, four = (
        samplers.create("flow-map", steps=n)(exact, start, seed=0, trajectory=True)
        for n in (1, 2, 4)
    )
    assert [one.nfe, two.nfe, four.nfe] == [1, 2, 4]
    torch.testing.assert_close(one.samples, two.samples, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.samples, four.samples, rtol=1e-4, atol=1e-5)
    teacher = GaussianMixture(MEAN[None], COVARIANCE[None], sde)
    fine = samplers.create("adams", steps=60, grid="log_snr", denoise=False)
    flowed = fine(teacher, start, seed=0)
    torch.testing.assert_close(one.samples, flowed, rtol=5e-3, atol=5e-3)
    assert two.times.tolist() == samplers.create("flow-map").times(sde).tolist()
    assert two.times[-1] == sde.t_min  # where maps to the data alone were trained to go
    assert samplers.create("flow-map", grid="angle(end=0.1)").times(sde)[-1] == 0.1
    given = samplers.Times((0.9, 0.3, 0.2))
    assert samplers.create("flow-map", grid=given).times(sde).tolist() == [0.9, 0.3, 0.2]


def test_noise_that_is_put_back_keeps_the_distribution():
    exact = GaussianFlowMap(MEAN, COVARIANCE, EDM())
    sampler = samplers.create("flow-map", steps=3, renoise=True)
    assert sampler.stochastic
    assert not samplers.create("flow-map").stochastic
    x = sampler(exact, (4000, 2), seed=0).float()
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.08)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, rtol=0, atol=0.12)
    plain = samplers.create("flow-map", steps=3)(exact, (4, 2), seed=0)
    assert not torch.allclose(x[:4], plain.float())


def test_budgets_are_counted_and_other_models_refused():
    assert samplers.create("flow-map", nfe=4).steps == 4
    assert samplers.create("flow-map", nfe=4, denoise=True).steps == 4
    assert samplers.describe("flow-map").nfe_per_step == "1"
    plain = GaussianMixture(MEAN[None], COVARIANCE[None], VP())
    with pytest.raises(ValueError, match=r"model is a GaussianMixture.*flow-map.*mean-flow"):
        samplers.create("flow-map")(plain, (2, 2), seed=0)
    start = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    exact = GaussianFlowMap(MEAN, COVARIANCE, VP())
    samplers.create("flow-map")(exact, start, seed=0, grad=True).sum().backward()
    assert start.grad.abs().min() > 0


def test_it_is_made_by_name_and_not_among_those_for_every_model():
    sampler = samplers.create("flow-map(steps=4)")
    assert str(sampler) == str(samplers.FlowMapSteps(steps=4)) == "flow-map(steps=4)"
    assert samplers.create(str(sampler)) == sampler
    assert "flow-map" not in samplers.available()
    assert list(samplers.FOR_FLOW_MAPS) == ["flow-map"]
