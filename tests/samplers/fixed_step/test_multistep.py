"""The driver of multistep methods: what it refuses, its graph, its gradients, one path of noise."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.samplers import BrownianPath, EulerMaruyama, Multistep, Times
from sde_score.samplers.fixed_step.multistep import advance
from sde_score.samplers.problem import Problem
from sde_score.samplers.published import constructors
from sde_score.sdes import EDM, VP

MODES = [[-1.0, 0.4], [1.0, 0.2]]


def modes(sde):
    return GaussianMixture(MODES, [[0.05, 0.2], [0.1, 0.04]], sde)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"prediction": "score"}, "prediction='score' is not known"),
        ({"coordinate": "beta"}, "coordinate='beta' is not known"),
        ({"rule": "trapezoid"}, "rule='trapezoid' is not known"),
        ({"order": 0}, "order=0 must be an integer of at least 1"),
        ({"order": 7}, "order=7 must be at most 6"),
        ({"corrector": -1}, "corrector=-1"),
        ({"final_order": 7}, "final_order=7 must be at most 6"),
        ({"eta": -0.5}, "eta=-0.5 must be at least 0"),
        ({"eta": "extended"}, "varies within a step"),
        ({"prediction": "data", "final_order": 2}, "needs a prediction other than 'data'"),
        ({"coordinate": "log_snr", "final_order": 2}, "only 1 is accepted"),
    ],
)
def test_wrong_settings_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        Multistep(**given)


def test_the_rows_are_fields_that_can_be_changed():
    assert samplers.create("dpmpp-2m").order == 2
    assert samplers.create("dpmpp-2m", order=3).order == 3
    assert samplers.create("unipc(order=2, corrector=2)").convergence_order == 3
    assert "reference" not in repr(samplers.create("deis"))


def test_a_step_is_one_graph_whatever_its_numbers():
    """`torch.compile` takes the step whole, and does not start again for each step's numbers."""
    from torch._dynamo.testing import CompileCounter

    sampler = Multistep(steps=12, order=3, corrector=2)
    sde = VP()
    steps = sampler.coefficients(sde, sampler.times(sde))
    torch._dynamo.reset()  # graphs of other tests in this process are not counted
    graphs = CompileCounter()
    compiled = torch.compile(advance, fullgraph=True, backend=graphs)
    past = tuple(torch.randn(4, 3) for _ in range(4))
    with torch.no_grad():
        for step in steps[4:]:
            x = torch.randn(4, 3)
            torch.testing.assert_close(compiled(x.clone(), step, past), advance(x, step, past))
    assert graphs.frame_count <= 2  # the second time with numbers that may vary


@pytest.mark.parametrize(
    "spec", [*constructors(Multistep), "heun", "ddim", "rk4", "multistep(final_order=3)"]
)
def test_ends_can_be_differentiated_in_the_times(spec):
    """Autograd through all steps against differences, in one of the times."""
    sampler, model = samplers.create(spec, steps=6), modes(EDM(0.01, 9.0))
    base = torch.tensor([9.0, 5.0, 2.0, 0.8, 0.3, 0.1], dtype=torch.float64)
    start = torch.tensor([[4.0, -3.0], [-6.0, 2.0]], dtype=torch.float64)
    generator = torch.Generator()

    def end(times):
        generator.manual_seed(0)

        def noise():
            return torch.randn(2, 2, generator=generator, dtype=torch.float64)

        x, problem = start.clone(), Problem(model, times, noise, None, lambda: None)
        for _, state in sampler.iterate(problem, x):
            x = state
        return x.square().sum()

    times = base.clone().requires_grad_()
    (slope,) = torch.autograd.grad(end(times), times)
    with torch.no_grad():
        for k in (1, 3, 4):
            moved = [base.clone() for _ in range(2)]
            moved[0][k] += 1e-6
            moved[1][k] -= 1e-6
            difference = (end(moved[0]) - end(moved[1])) / 2e-6
            assert slope[k].item() == pytest.approx(difference.item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda **way: EulerMaruyama(**way),
        lambda **way: samplers.create("dpmpp-2m-sde", **way),
        lambda **way: samplers.create("dpmpp-1-sde", **way),
        lambda **way: samplers.create("seeds-2", **way),
        lambda **way: samplers.create("ddim(eta=1.0)", **way),
    ],
)
def test_on_one_path_more_steps_come_closer_to_the_same_samples(make):
    """Strong convergence, of first order or near it: the noise is the same, not the steps."""
    model, gaps = GaussianMixture([[0.5, -0.3]], 0.3, VP()), []
    clock = torch.linspace(-3.0, 3.0, 257, dtype=torch.float64)
    times = VP().time_of_log_snr(clock)
    path = BrownianPath(VP(), (16, 2), seed=1, dtype=torch.float64)
    for n in (32, 64, 256):
        at = tuple(times[:: 256 // n].tolist())
        sampler = make(steps=n, grid=Times(at), denoise=False)
        gaps.append(sampler(model, (16, 2), noise=path.restart(), progress=False))
    errors = [(x - gaps[-1]).square().mean().sqrt().item() for x in gaps[:-1]]
    assert errors[1] < 0.1
    assert math.log2(errors[0] / errors[1]) > 0.7
    other = make(steps=64, grid=Times(tuple(times[::4].tolist())), denoise=False)
    free = other(model, (16, 2), seed=1, progress=False)
    assert (free - gaps[-1]).square().mean().sqrt() > 5 * errors[1]


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"noise gave a draw of shape \(3, 2\)"):
        samplers.create("ancestral", steps=2)(
            modes(VP()), (4, 2), noise=lambda: torch.zeros(3, 2), progress=False
        )
