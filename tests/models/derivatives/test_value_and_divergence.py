"""The divergence of a linear field x -> A x is tr A, and its estimates have known distributions."""

from __future__ import annotations

import pytest
import torch

from sde_score.likelihood import draw_probes
from sde_score.models import DERIVATIVE_MODES, ScoreModel, value_and_divergence
from sde_score.nn import MLP, UNet
from sde_score.random import PROBE_DISTRIBUTIONS
from sde_score.sdes import VP

COPIES = 12_000


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def matrix(generator):
    return torch.randn(4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("mode", DERIVATIVE_MODES)
def test_exact_divergence_is_the_trace_of_each_examples_jacobian(mode, generator):
    """f(x) = (x_1^2 x_2, sin x_2, x_1 x_3): div = 2 x_1 x_2 + cos x_2 + x_1, example by example."""
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)

    def field(x):
        a, b, c = x.unbind(1)
        return torch.stack([a**2 * b, b.sin(), a * c], 1)

    value, divergence = value_and_divergence(field, x, mode=mode)
    a, b, _ = x.unbind(1)
    torch.testing.assert_close(value, field(x), rtol=0, atol=0)
    torch.testing.assert_close(divergence, (2 * a * b + b.cos() + a)[None])


@pytest.mark.parametrize("mode", DERIVATIVE_MODES)
@pytest.mark.parametrize("event", [(), (1,), (2, 3), (2, 1, 2)])
def test_events_of_any_rank(event, mode, generator):
    """f(x) = c x has divergence sum c, whatever the shape of the event."""
    x = torch.randn(3, *event, generator=generator, dtype=torch.float64)
    c = torch.randn(event, generator=generator, dtype=torch.float64)
    divergence = value_and_divergence(lambda x: c * x, x, mode=mode)[1]
    torch.testing.assert_close(divergence, c.sum().expand(1, 3))


@pytest.mark.parametrize("mode", DERIVATIVE_MODES)
@pytest.mark.parametrize("count", [1, 2, 5, 70])
def test_each_probe_gives_its_quadratic_form(mode, count, matrix, generator):
    """One row per probe: eps^T A eps, for a Jacobian that is not symmetric."""
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    probes = torch.randn(count, 3, 4, generator=generator, dtype=torch.float64)
    _, forms = value_and_divergence(lambda x: x @ matrix.mT, x, probes, mode)
    torch.testing.assert_close(forms, torch.einsum("nbi,ij,nbj->nb", probes, matrix, probes))


@pytest.mark.parametrize("distribution", PROBE_DISTRIBUTIONS)
def test_hutchinson_has_the_mean_and_variance_of_its_distribution(distribution, matrix):
    """Mean tr A; variance 2 |sym A|^2 (gaussian), less 2 sum A_ii^2 (rademacher); on the sphere
    2 D / (D + 2) (|sym A|^2 - tr^2 / D)."""
    x = torch.zeros(COPIES, 4, dtype=torch.float64)
    _, forms = value_and_divergence(lambda x: x @ matrix.mT, x, draw_probes(1, x, distribution))
    symmetric = 0.5 * (matrix + matrix.mT)
    variance = 2 * symmetric.square().sum()
    if distribution == "rademacher":
        variance -= 2 * matrix.diag().square().sum()
    if distribution == "sphere":
        variance = 2 * 4 / 6 * (symmetric.square().sum() - matrix.trace() ** 2 / 4)
    assert abs(forms.mean() - matrix.trace()) < 4 * (variance / COPIES).sqrt()
    torch.testing.assert_close(forms.var(), variance, rtol=0.05, atol=0)


def test_rademacher_probes_are_exact_for_a_diagonal_jacobian(generator):
    scale = torch.randn(6, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    _, forms = value_and_divergence(lambda x: scale * x, x, draw_probes(3, x))
    torch.testing.assert_close(forms, scale.sum().expand(3, 2))


def test_an_unknown_mode_is_refused():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="mode='both' is not known; accepted: reverse, forward"):
        value_and_divergence(lambda x: x, x, mode="both")


@pytest.mark.parametrize("net", [MLP((6,), width=16), UNet((1, 8, 8), base=32, blocks=1)])
def test_both_modes_agree_on_our_networks_at_times_of_their_own(net, generator):
    """With attention and group norm; all outputs away from their zero start."""
    for parameter in net.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    model, x = ScoreModel(net, VP()), torch.randn(3, *net.event_shape, generator=generator)
    t = torch.tensor([0.1, 0.5, 0.9])
    probes = draw_probes(4, x)
    found = [
        value_and_divergence(lambda x: model.velocity(x, t), x, probes, mode)
        for mode in DERIVATIVE_MODES
    ]
    for reverse, forward in zip(*found, strict=True):
        torch.testing.assert_close(reverse, forward, rtol=2e-4, atol=2e-3)
    (row,) = probes[:1]
    step = 1e-3 * row
    change = model.velocity(x + step, t) - model.velocity(x - step, t)
    slope = (change * row).flatten(1).sum(1) / 2e-3
    torch.testing.assert_close(found[0][1][0], slope.detach(), rtol=2e-2, atol=2e-2)
    assert model.nfe == 4


@pytest.mark.parametrize(("event", "passes"), [((5,), 1), ((1, 5), 5)])
def test_vectors_share_a_backward_pass_and_images_do_not(event, passes, generator):
    """What is faster is done, by the shape of the event."""

    class Counted(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, grad):
            Counted.calls += 1
            return 2 * grad

    x = torch.randn(2, *event, generator=generator)
    with torch.no_grad():  # many vectors at once have no graph
        _, divergence = value_and_divergence(Counted.apply, x)
    assert divergence.tolist() == [[10.0, 10.0]]
    assert Counted.calls == passes


def test_a_function_that_cannot_be_batched_is_differentiated_vector_by_vector(generator):
    """A custom derivative without a rule for vmap still has an exact trace."""

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return torch.from_numpy(grad.numpy() * 3 * x.numpy() ** 2)

    x = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        _, divergence = value_and_divergence(Cube.apply, x)
        torch.testing.assert_close(divergence, (3 * x**2).sum(1)[None])
        with pytest.raises(RuntimeError, match="own"):
            value_and_divergence(lambda x: Failing.apply(x), x)


class Failing(torch.autograd.Function):
    """Its derivative is an error of its own."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("an error of its own")
