"""Flow maps: the closed form on Gaussian data, and a network told two times."""

import pytest
import torch

from sde_score import nn, samplers
from sde_score.models import FlowMap, FlowMapModel, GaussianFlowMap, GaussianMixture, ScoreModel
from sde_score.sdes import EDM, VE, VP, Rectified

F64 = torch.float64
SDES = [VP(), VE(), EDM(), Rectified()]
MEAN, COVARIANCE = torch.tensor([0.5, -0.3]), torch.tensor([[1.5, 0.6], [0.6, 0.5]])


def times(sde, *ratios):
    return sde.time_of_noise_ratio(torch.tensor(ratios, dtype=F64))


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=F64)


def network(**options):
    """A small network whose last layer and end embedding are not zero."""
    torch.manual_seed(0)
    made = nn.tell_end(nn.create("mlp(width=8, depth=1)", (2,), **options)).double()
    for parameter in made.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.mark.parametrize("sde", SDES, ids=str)
@pytest.mark.parametrize("sigma_data", [1.0, 0.7])
def test_the_closed_form_follows_the_flow_of_gaussian_data(sde, sigma_data):
    exact = GaussianFlowMap(MEAN, COVARIANCE, sde, sigma_data)
    teacher = GaussianMixture(MEAN[None], COVARIANCE[None], sde)
    t, s = times(sde, 0.5, 1.0, 3.0), times(sde, 0.1, 2.0, 0.02)
    x = exact.sde.perturb(draw(3, 2), t, draw(3, 2) + 1)
    torch.testing.assert_close(exact.velocity(x, t), teacher.velocity(x, t))
    torch.testing.assert_close(exact(x, t, t), x)
    torch.testing.assert_close(exact(exact(x, t, s), s, t), x)
    torch.testing.assert_close(exact.score(x, t), teacher.score(x, t))
    solver = samplers.create("adams", steps=30, grid="log_snr", denoise=False)
    first, last = (float(solver.times(sde)[i]) for i in (0, -1))
    start = exact(x, t, first)
    flowed = solver(teacher, start, seed=0)
    torch.testing.assert_close(exact(start, first, last), flowed, rtol=1e-2, atol=1e-3)
    assert isinstance(exact, FlowMapModel)
    assert not isinstance(teacher, FlowMapModel)


@pytest.mark.parametrize("sde", SDES, ids=str)
@pytest.mark.parametrize("prediction", ["edm", "velocity", "noise"])
def test_the_mean_velocity_is_the_chord_of_the_map_on_the_circle(sde, prediction):
    model = FlowMap(network(), sde, prediction, sigma_data=0.6)
    t, s = times(sde, 0.5, 1.0, 3.0), times(sde, 0.1, 2.0, 0.02)
    size, angle = {}, {}
    for name, at in (("t", t), ("s", s)):
        alpha, sigma = sde.alpha(at), sde.sigma(at)
        size[name] = (sigma**2 + (0.6 * alpha) ** 2).sqrt()[:, None]
        angle[name] = torch.atan(sigma / alpha / 0.6)[:, None]
    z = draw(3, 2)
    chord = (z - model(size["t"] * z, t, s) / size["s"]) / (angle["t"] - angle["s"])
    torch.testing.assert_close(model.mean_velocity(z, t, s), chord)
    on_x = model.velocity(size["t"] * z, t)  # of x = S z in t, against that of z in the angle
    step = 1e-5 * t
    moved = model(size["t"] * z, t, t + step)
    torch.testing.assert_close((moved - size["t"] * z) / step[:, None], on_x, rtol=1e-3, atol=1e-3)


def test_in_rectified_time_the_map_is_a_step_along_the_mean_velocity():
    model = FlowMap(network(), "rectified", "velocity")
    x, t, s = draw(3, 2), torch.full((3,), 0.9, dtype=F64), torch.full((3,), 0.2, dtype=F64)
    told = torch.log(s / (1 - s)) / 4
    label = torch.log(t / (1 - t)) / 4
    scale = (t**2 + (1 - t) ** 2).sqrt()[:, None]
    u = model.backbone(x / scale, label, {"end_noise_level": told})
    torch.testing.assert_close(model(x, t, s), x - (t - s)[:, None] * u)
    assert model.nfe == 1


def test_a_map_made_of_a_trained_model_starts_as_its_ddim_steps_and_keeps_its_diagonal():
    torch.manual_seed(0)
    plain = nn.create("mlp(width=8, depth=1)", (2,), 3)
    torch.nn.init.normal_(plain.last.weight)
    teacher = ScoreModel(plain, "edm", "edm", 0.5).double()
    model = FlowMap.from_model(teacher)
    x, label = 3 * draw(4, 2), torch.tensor([0, 2, -1, 1])
    assert torch.equal(model.denoise(x, 3.0, label), teacher.denoise(x, 3.0, label))
    ddim = samplers.create("ddim", steps=1, denoise=False, grid=samplers.Times((3.0, 0.5)))
    expected = ddim(teacher, x, seed=0, condition=label)
    torch.testing.assert_close(model(x, 3.0, 0.5, label), expected)
    torch.nn.init.normal_(model.backbone.embedding.end.second.weight)
    assert not torch.allclose(model(x, 3.0, 0.5, label), expected)
    assert "end" not in dict(plain.embedding.named_children())


@pytest.mark.parametrize(
    "spec", ["unet(base=4, multipliers=(1, 2))", "dit(width=8, depth=1, heads=2)"]
)
def test_images_conditions_and_foreign_embeddings_are_told_the_end(spec):
    shape = {"label": 3, "mask": (1, 8, 8)}
    model = FlowMap(nn.tell_end(nn.create(spec, (1, 8, 8), condition_shape=shape)), "vp")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, told = draw(2, 1, 8, 8).float(), {"label": torch.tensor([0, -1])}
    far, near = model(x, 0.9, 0.1, told), model(x, 0.9, 0.5, told)
    assert far.shape == x.shape
    pair = (model.mean_velocity(x, 0.9, s, told) for s in (0.1, 0.5))
    assert not torch.allclose(*pair)
    assert not torch.allclose(far, near)


def test_refusals_say_how_to_tell_a_network_two_times():
    with pytest.raises(TypeError, match=r"backbone takes no condition.*third argument"):
        FlowMap(lambda x, t: x, "vp")
    with pytest.raises(ValueError, match=r"RefineNet is not told the noise level.*unet or dit"):
        nn.tell_end(nn.create("refinenet(base=4)", (1, 8, 8)))
    with pytest.raises(TypeError, match=r"model is a GaussianMixture; accepted: a ScoreModel"):
        FlowMap.from_model(GaussianMixture([[0.0]], 1.0, VP()))
    with pytest.raises(ValueError, match=r"told two noise levels.*FlowMap"):
        ScoreModel(network(), "vp").score(draw(2, 2), 0.5)
    with pytest.raises(ValueError, match=r"t=2 leaves"):
        FlowMap(network(), "vp")(draw(2, 2), 0.5, 2.0)
    with pytest.raises(ValueError, match=r"takes no condition"):
        GaussianFlowMap(MEAN, COVARIANCE, VP())(draw(2, 2), 0.5, 0.2, torch.zeros(2))
