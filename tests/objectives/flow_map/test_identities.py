"""Losses of flow maps: zero at the closed-form map of Gaussian data, gradients by differences."""

import math
from dataclasses import replace

import pytest
import torch

from sde_score import nn
from sde_score.models import FlowMap, GaussianFlowMap, GaussianMixture
from sde_score.objectives import OBJECTIVES
from sde_score.objectives.flow_map.base import Circle
from sde_score.random import BatchSlice, drawing_from
from sde_score.sdes import EDM, VP, Rectified

F64 = torch.float64
NAMES = ["mean-flow", "lagrangian", "semigroup", "consistency", "scm"]
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
@pytest.mark.parametrize("name", [*NAMES, "reflow"])
def test_the_gradient_is_that_of_finite_differences(name, sde):
    """What has no gradient is held where it was."""
    teacher = GaussianFlowMap(MEAN, COVARIANCE, sde, 0.8) if name == "reflow" else None
    objective = OBJECTIVES.create(name, share=0.5, teacher=teacher)
    model, fixed = network(sde), network(sde)
    pair = objective.draw(model, data(6), None, seeded(1))
    assert 0 < int(pair.diagonal.sum()) < 6
    factor = objective.weight(pair)
    factor = 1.0 if factor is None else factor[:, None]
    loss = (factor * objective.residual(model, fixed, pair) ** 2).sum()
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
                ends.append((factor * objective.residual(model, fixed, pair) ** 2).sum())
                weight -= sign * step * direction
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["mean-flow", "lagrangian", "scm"])
def test_a_central_difference_stands_for_forward_mode(name):
    model, x0 = network(EDM()), data(8)
    exact, near = (
        OBJECTIVES.create(name, difference=h)(model, x0, generator=seeded()) for h in (0.0, 1e-4)
    )
    torch.testing.assert_close(exact, near, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "spec",
    [
        "mean-flow(difference=1e-6)",
        "lagrangian(difference=1e-6)",
        "semigroup",
        "consistency",
        "scm(difference=1e-6)",
    ],
)
def test_all_evaluations_of_an_example_see_the_same_dropout_mask(spec):
    """Between times that are nearly one, all evaluations are of one point and agree."""
    model, objective = network(VP(), dropout=0.5), OBJECTIVES.create(spec, share=1.0)
    pair = objective.draw(model, data(4), None, seeded())
    pair = replace(pair, s=pair.t * (1 - 1e-9), velocity=torch.zeros_like(pair.z))
    seen, inner = [], model.mean_velocity
    model.mean_velocity = lambda *given: seen.append(inner(*given)) or seen[-1]
    for _ in range(2):
        with drawing_from(seeded(5)):
            objective.residual(model, model, pair)
    assert torch.equal(seen[0], seen[len(seen) // 2])
    for value in seen[1:]:
        torch.testing.assert_close(value, seen[0], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_the_diagonal_learns_the_velocity_of_the_examples(name):
    model, objective = network(EDM()), OBJECTIVES.create(name, share=0.0)
    pair, x0 = objective.draw(model, data(6), None, seeded()), data(6)
    assert bool(pair.diagonal.all())
    matched = (model.mean_velocity(pair.z, pair.t, pair.t) - pair.velocity) ** 2
    torch.testing.assert_close(objective(model, x0, generator=seeded()), matched.mean(1))
    angle = torch.atan(model.sde.noise_ratio(pair.t) / 0.8)[:, None]
    clean = angle.cos() * pair.z - angle.sin() * pair.velocity
    torch.testing.assert_close(0.8 * clean, x0)


def test_the_direction_of_mean_flow_is_that_of_the_model_and_not_of_the_example():
    """Which has the same expected value and a larger variance."""
    model, objective = network(EDM()), OBJECTIVES.create("mean-flow", share=1.0)
    pair = objective.draw(model, data(6), None, seeded())
    other = replace(pair, velocity=pair.velocity + 1)
    left, right = (objective.residual(model, model, each) for each in (pair, other))
    torch.testing.assert_close(left, right + 1)
    angle = torch.atan(pair.t / 0.8)  # in EDM, where t is the noise ratio
    torch.testing.assert_close(objective.weight(pair), angle.cos())
    assert replace(objective, power=0.75).weight(pair) is None


def test_consistency_weighs_a_pair_by_one_over_its_step():
    """So that the gradient stays of one size while the pair closes in."""
    model, losses = network(EDM()), []
    for gap in (2e-4, 1e-4):
        objective = OBJECTIVES.create("consistency", share=1.0, gap=gap)
        losses.append(objective(model, data(64), generator=seeded()).mean().item())
    assert losses[0] / losses[1] == pytest.approx(2.0, rel=0.05)


def test_the_gap_is_halved_by_stages_and_reaches_back_to_the_data_at_first():
    objective, model = OBJECTIVES.create("consistency", gap=1 / 16, halve_every=100), network(EDM())
    gaps = [objective.at_step(step).gap for step in (0, 99, 100, 299, 300, 1000, 10**9)]
    assert gaps == [1 / 2, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16, 1 / 16]
    assert OBJECTIVES.create("consistency").at_step(0).gap == 1 / 256
    first = replace(objective.at_step(0), share=1.0)
    pair = first.draw(model, data(20), None, seeded())
    near = pair.circle.sde.noise_ratio(pair.t) < 1.9  # from where 1/2 of the ratio is all of it
    assert 2 < int(near.sum()) < 20
    theta, last = (pair.circle.angle(when)[:, None] for when in (pair.t, pair.s))
    turn = theta - last
    example = turn.cos() * pair.z - turn.sin() * pair.velocity  # at t_min
    end = pair.z - turn * model.mean_velocity(pair.z, pair.t, pair.s)
    torch.testing.assert_close(first.residual(model, model, pair)[near], (end - example)[near])
    step = pair.t - pair.s  # in EDM the noise ratio itself
    torch.testing.assert_close(first.weight(pair)[near], 0.8 / step[near])
    wide = 0.8 / (pair.t * 0.5 * (1 + 8 * torch.sigmoid(-pair.t)))
    torch.testing.assert_close(first.weight(pair)[~near], wide[~near])


def test_a_power_lets_large_residuals_count_less_as_the_pseudo_huber_loss_does():
    model, given = network(VP()), {"share": 1.0, "floor": 0.04}
    plain, bent, whole = (
        OBJECTIVES.create("semigroup", power=p, **given)(model, data(9), generator=seeded())
        for p in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(bent, plain / (plain + 0.04).sqrt())
    torch.testing.assert_close(whole, plain / (plain + 0.04))
    weights = list(model.parameters())
    huber = 2 * ((plain + 0.2**2).sqrt() - 0.2)
    torch.testing.assert_close(
        torch.autograd.grad(bent.sum(), weights), torch.autograd.grad(huber.sum(), weights)
    )


@pytest.mark.parametrize("tangent", [1.0, 0.3])
def test_the_tangent_of_scm_is_that_of_the_paper(tangent):
    """In TrigFlow's terms: g = -cos^2 (F - dx/dt) - r (cos sin x + cos sin dF/dt), by differences,
    at an end of zero noise."""
    sde = EDM(sigma_min=1e-9)
    model, c = network(sde), 0.2
    objective = OBJECTIVES.create("scm", tangent=tangent, share=1.0, damping=c)
    pair = objective.draw(model, data(6), None, seeded())
    angle, h = pair.circle.angle(pair.t)[:, None], 1e-5

    def answer(z, theta):
        t = pair.circle.time(theta[:, 0])
        x = z * (sde.sigma(t)[:, None] ** 2 + 0.8**2).sqrt()
        return (theta.cos() * z - model.flow(x, t, pair.s) / 0.8) / theta.sin()

    here = answer(pair.z, angle)
    there, before = (answer(pair.z + e * pair.velocity, angle + e) for e in (h, -h))
    slope = (there - before) / (2 * h)
    g = -(angle.cos() ** 2) * (here - pair.velocity)
    g = g * 1.0 - tangent * angle.cos() * angle.sin() * (pair.z + slope)
    g = g / (g.square().mean(1, keepdim=True).sqrt() + c)
    torch.testing.assert_close(objective.residual(model, model, pair), -g, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(objective.weight(pair), 1 / angle[:, 0].tan())


def test_of_a_teacher_that_goes_to_the_data_alone_the_velocity_is_taken():
    losses = []
    for told in (False, True):
        teacher, model = network(EDM(), seed=1), network(EDM())
        teacher.to_data_alone = told
        objective = OBJECTIVES.create("consistency", teacher=teacher, share=1.0, gap=0.3)
        pair = objective.draw(model, data(8), None, seeded())
        losses.append(objective.residual(model, model, pair))
        bare = replace(objective, teacher=None).residual(model, model, pair)
        assert torch.equal(losses[-1], bare) == told  # on the path of the velocity in the pair
    assert not torch.allclose(*losses)


def test_scm_warms_up_over_the_first_steps():
    objective = OBJECTIVES.create("scm", warmup=10, tangent=0.8)
    found = [objective.at_step(step).tangent for step in (0, 5, 10, 99)]
    assert found == pytest.approx([0.0, 0.4, 0.8, 0.8])
    t = objective.draw(network(EDM()), data(4000), None, seeded()).t  # sigma, of which no other
    assert t.log().median().item() == pytest.approx(-1.0, abs=0.1)


class Straight(GaussianFlowMap):
    """The flow through the arcs between noise and the ends of the closed form, in closed form."""

    def mean_velocity(self, z, t, s, condition=None):
        circle = Circle(self.sde, self.sigma_data)
        start, end = (
            circle.angle(torch.as_tensor(when).expand(len(z)))[:, None] for when in (t, s)
        )
        low, high = torch.tensor([self.sde.t_min]).double(), torch.tensor([self.sde.t_max]).double()
        least, most = circle.angle(low), circle.angle(high)
        axes = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
        ends = axes - (most - least) * super().mean_velocity(axes, high.expand(3), low.expand(3))
        shift, matrix = ends[0], (ends[1:] - ends[0]).T  # z at t_min = shift + matrix z at t_max
        shift = shift / least.cos()
        matrix = (matrix - least.sin() * torch.eye(2)) / least.cos()
        on = lambda angle: angle.cos()[..., None] * matrix + angle.sin()[..., None] * torch.eye(2)  # noqa: E731
        noise = torch.linalg.solve(on(start), (z - start.cos() * shift)[..., None])
        arc = end.cos() * shift + (on(end) @ noise)[..., 0]
        return (z - arc) / (start - end)


@pytest.mark.parametrize("sde", SDES, ids=str)
def test_reflow_is_zero_at_the_flow_through_its_arcs_which_is_not_that_of_the_teacher(sde):
    exact = GaussianFlowMap(MEAN, COVARIANCE, sde, 0.8)
    objective = OBJECTIVES.create("reflow", teacher=exact, share=1.0)
    straight = Straight(MEAN, COVARIANCE, sde, 0.8)
    assert objective(straight, data(64), generator=seeded()).max() < 1e-15
    assert objective(exact, data(64), generator=seeded()).mean() > 1e-4
    score = GaussianMixture(MEAN[None], COVARIANCE[None], sde)  # solved by steps
    errors = [
        objective(straight, data(64), generator=seeded()).mean().item()
        for objective in (
            OBJECTIVES.create("reflow", teacher=score, share=1.0, steps=n) for n in (10, 20)
        )
    ]
    assert errors[0] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.5)  # the square of an error of order 2
    with pytest.raises(ValueError, match=r"Reflow learns from a teacher alone: give teacher"):
        OBJECTIVES.create("reflow")(straight, data(4))


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
    for name, argument, value in [
        ("consistency", "gap", 1.0),
        ("consistency", "halve_every", -1),
        ("scm", "tangent", 1.5),
        ("scm", "damping", 0.0),
        ("semigroup", "power", 2.0),
        ("semigroup", "floor", 0.0),
    ]:
        with pytest.raises(ValueError, match=argument):
            OBJECTIVES.create(name, **{argument: value})
    with pytest.raises(TypeError, match=r"teacher"):
        OBJECTIVES.create("mean-flow", teacher=3)
    for name in ("mean-flow", "lagrangian", "scm"):
        with pytest.raises(ValueError, match=r"precision='float32'"):
            OBJECTIVES.create(name).require_precision(network(VP()), 4e-3)
        with torch.autocast("cpu"), pytest.raises(ValueError, match=r"precision='float32'"):
            OBJECTIVES.create(name)(network(VP()), x0)
    assert math.isfinite(OBJECTIVES.create("ect", teacher=plain)(network(VP()), x0).mean().item())


def test_attention_without_forward_mode_is_refused_with_the_way_out(monkeypatch):
    torch.manual_seed(0)
    inner = nn.create("dit(width=8, depth=1, heads=2, patch=1)", (1, 8, 8))
    for parameter in inner.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model, x0 = FlowMap(nn.tell_end(inner), VP()), torch.randn(2, 1, 8, 8, generator=seeded())
    losses = [OBJECTIVES.create("mean-flow")(model, x0, generator=seeded())]
    nn.set_second_derivatives(inner, needed=False)
    monkeypatch.setattr("sde_score.nn.blocks.heads._TRAINING_FROM", 1)  # fused from one token
    with pytest.raises(ValueError, match=r"no forward derivative: set difference=0\.005"):
        OBJECTIVES.create("mean-flow")(model, x0, generator=seeded())
    objective = OBJECTIVES.create("mean-flow", difference=0.005)
    losses.append(objective(model, x0, generator=seeded()))
    torch.testing.assert_close(*losses, rtol=1e-2, atol=1e-3)
