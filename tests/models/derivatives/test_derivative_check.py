"""Models that would train on wrong gradients are refused with a reason; others pass."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from sde_score import nn as backbones
from sde_score.models import (
    HEADS,
    EnergyFunction,
    EnergyModel,
    GaussianMixture,
    ScoreFunction,
    ScoreModel,
    check_differentiable,
    divergence,
    hessian_vector,
)
from sde_score.nn.blocks.group_norm import LayerNorm
from sde_score.sdes import VE, VP

MODELS = {"score": ScoreModel, "energy": EnergyModel}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def x():
    return torch.randn(6, 3)


class Network(nn.Module):
    """Linear, something, linear; the last layer may start at zero."""

    def __init__(self, *middle, zero=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), *middle)
        self.last = nn.Linear(8, 3)
        if zero:
            nn.init.zeros_(self.last.weight)

    def forward(self, x, noise_level, condition=None):
        return self.last(self.body(x))


class Functional(Network):
    """The nonlinearity is a function, called in the forward pass of a block."""

    def __init__(self, function, **options):
        super().__init__(Block(function), **options)


class Block(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x):
        q = self.first(x[:, :, None])[:, None]
        return self.last(F.scaled_dot_product_attention(q, q, q))[:, 0, :, 0]


class Foreignly(nn.Module):
    """A network of x alone as a backbone."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, noise_level):
        return self.network(x)


class Rough(nn.Module):
    """Kinks in what is made of the noise level; x meets none."""

    def __init__(self):
        super().__init__()
        self.level = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 3))
        self.body = nn.Linear(3, 3)

    def forward(self, x, noise_level, condition=None):
        return torch.tanh(self.body(x) + self.level(noise_level[:, None]))


WITHOUT = "\n- torch cannot differentiate it twice"


def refusal(model, *arguments, **options):
    with pytest.raises(ValueError, match="cannot be trained through derivatives") as caught:
        check_differentiable(model, *arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("backbone", ["mlp", "unet(base=8, multipliers=(1, 2))"])
def test_our_own_networks_pass_as_they_are_made(kind, backbone):
    event = (3,) if backbone == "mlp" else (1, 4, 4)
    model = MODELS[kind](backbones.create(backbone, event), VP())
    check_differentiable(model, torch.randn(2, *event))


SMOOTH = [nn.SiLU(), nn.Softplus(), nn.GELU(), nn.Tanh(), LayerNorm(8), nn.Dropout(0.5)]


@pytest.mark.parametrize("middle", SMOOTH, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("kind", MODELS)
def test_smooth_networks_pass(kind, middle, x):
    for dtype, t in ((torch.float32, torch.linspace(0.1, 1, 6)), (torch.float64, None)):
        model = MODELS[kind](Network(middle), VP()).to(dtype)
        check_differentiable(model, x.to(dtype), t)


@pytest.mark.parametrize(
    "model",
    [
        ScoreFunction(lambda x, t: -2 * x),
        ScoreFunction(lambda x, t: 0 * x),
        EnergyFunction(lambda x, t: x.square().sum(1)),
        EnergyFunction(lambda x, t: x.sum(1)),
        ScoreModel(Network(), VP()),
        ScoreModel(Network(nn.Dropout(0.5)), VE(), "score"),
        ScoreModel(Network(nn.BatchNorm1d(8)).eval(), VP()),
        ScoreModel(Rough(), VP()),
        EnergyModel(Rough(), VP()),
        GaussianMixture(torch.eye(3), 0.5, VP()),
    ],
    ids=range(10),
)
def test_linear_scores_and_other_good_models_pass(model, x):
    """Second derivatives that are zero because the score is linear are right; so are kinks that x
    does not meet, and batch norms that have stopped to look at the batch."""
    for rows in (6, 1):
        check_differentiable(model, x[:rows], 0.3)


KINKS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(),
    nn.PReLU(),
    nn.RReLU(),
    nn.ReLU6(),
    nn.Hardtanh(),
    nn.Hardshrink(),
    nn.Softshrink(),
    nn.Threshold(0.1, 0.2),
    nn.MaxPool1d(3, 1, 1),
]


@pytest.mark.parametrize(
    ("kink", "zero", "kind"),
    [(kink, i % 2 == 1, ("score", "energy")[i // 2 % 2]) for i, kink in enumerate(KINKS)],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_kinks_are_refused_and_their_modules_suspected(kink, zero, kind, x):
    """Behind a smooth layer, where no derivative is exactly zero, and behind a last layer that
    starts at zero; the activation that is smooth is not named."""
    network = Network(nn.SiLU(), LayerNorm(8), kink, zero=zero)
    said = refusal(MODELS[kind](network, VP()), x)
    assert "\n- the score has kinks, where a derivative that is needed jumps" in said
    assert said.endswith(f"; to be replaced: {type(kink).__name__} in backbone.body.3")
    assert "use SiLU" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("kink", "zero"), [(nn.ReLU(), True), (nn.MaxPool1d(3, 1, 1), False)])
def test_kinks_pass_where_what_jumps_is_not_needed(kink, zero, x):
    network = Network(nn.SiLU(), LayerNorm(8), kink, zero=zero)
    check_differentiable(ScoreModel(network, VP()), x, second_derivatives=False)
    assert "backbone.body.3" in refusal(EnergyModel(network, VP()), x, second_derivatives=False)
    check_differentiable(EnergyModel(network, VP()), x, needs="energy", second_derivatives=False)


KINKED = {
    "relu": F.relu,
    "pool": lambda h: F.max_pool1d(h, 3, 1, 1),
    "abs": torch.abs,
    "hardswish": lambda h: F.hardswish(4 * h),
    "clamp": lambda h: h.clamp(-1, 1),
}


@pytest.mark.parametrize("kink", KINKED)
def test_kinks_in_functions_are_found_beside_a_smooth_part(kink, x):
    """No module is known for them, and no derivative is zero."""
    width, dtype = (8, torch.float64) if kink in ("pool", "clamp") else (64, torch.float32)
    both = nn.Sequential(nn.Linear(3, width), Block(lambda h: KINKED[kink](h) + F.silu(h)))
    network = nn.Sequential(*both, nn.Linear(width, 3))
    kind = "energy" if kink in ("pool", "hardswish") else "score"
    said = refusal(MODELS[kind](Foreignly(network), VP()).to(dtype), x.to(dtype))
    assert "\n- the score has kinks" in said
    assert "to be replaced" not in said


@pytest.mark.parametrize(
    ("kind", "sharpness"), [("score", 50.0), ("energy", 5.0), ("energy", 50.0)]
)
def test_smooth_functions_pass_however_sharp(kind, sharpness, x):
    """What a coarse quadrature cannot tell from a kink, a finer one can."""
    network = Functional(lambda h: F.softplus(h, beta=sharpness))
    check_differentiable(MODELS[kind](network, VP()).double(), x.double())


def test_torchs_layer_normalization_passes_where_its_derivatives_are_right(x):
    """Up to the second; of an energy, whose Hessian is trained, the third is taken as well."""
    network = Network(nn.SiLU(), nn.LayerNorm(8))
    check_differentiable(ScoreModel(network, VP()).double(), x.double())
    energy = EnergyModel(network, VP()).double()
    check_differentiable(energy, x.double(), second_derivatives=False)


def test_kinks_in_what_a_function_closes_over_are_found(x):
    layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    refusal(ScoreFunction(lambda x, t: layers(x)), x)


def test_half_of_a_graph_that_is_cut_is_found(x):
    layers = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))
    for cut in (lambda x: layers(x.detach()) + x**3, lambda x: layers(x) * x.detach()):
        assert "or its graph is cut" in refusal(ScoreFunction(lambda x, t, cut=cut: cut(x)), x)


def test_several_kinks_are_named_in_the_order_of_the_network(x):
    network = Network(nn.ReLU(), nn.Linear(8, 8), nn.Hardtanh(), nn.Linear(8, 8), nn.ReLU())
    names = "ReLU in backbone.body.1, Hardtanh in backbone.body.3, ReLU in backbone.body.5"
    assert names in refusal(ScoreModel(network, VP()), x)


@pytest.mark.parametrize("crease", [nn.ELU(), nn.CELU()], ids=["ELU", "CELU"])
def test_elu_is_refused_only_where_hessians_are_trained(crease, x):
    score, energy = ScoreModel(Network(crease), VP()), EnergyModel(Network(crease), VP())
    check_differentiable(score, x)
    check_differentiable(energy, x, second_derivatives=False)
    assert f"{type(crease).__name__} in backbone.body.1" in refusal(energy, x)


@pytest.mark.parametrize("second", [False, True])
def test_flat_scores_are_refused_though_nothing_in_them_has_a_name(second, x):
    """|x|_1 is no node with a known kink: its score is +-1, its Hessian zero, exactly."""
    model = EnergyFunction(lambda x, t: x.abs().sum(1))
    assert "its derivatives are exactly zero" in refusal(model, x, second_derivatives=second)
    assert "its derivatives are exactly zero" in refusal(model, x[:1], second_derivatives=second)


def test_piecewise_linear_scores_are_refused_though_nothing_in_them_has_a_name(x):
    """The score |x| has a derivative, +-1, but none of that."""
    for function in (lambda x, t: x.abs(), lambda x, t: x.clamp(-0.5, 0.5)):
        model = ScoreFunction(function)
        assert "its derivatives are exactly zero" in refusal(model, x)
        check_differentiable(model, x, second_derivatives=False)
    energy = EnergyFunction(lambda x, t: (x.abs() * x**2).sum(1).expand(len(x)))
    check_differentiable(energy, x)


def test_what_kinks_do():
    """d/db of E[J] for J = d/dx act(x - b), x ~ N(0, 1): with ReLU -p(b), and autograd says 0; with
    softplus it says the truth. The Hessian of a ReLU energy is zero."""
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None]
    weight = torch.exp(-0.5 * x[:, 0] ** 2) / (2 * torch.pi) ** 0.5 * (x[1] - x[0])

    def mean(act, b):
        return (weight * divergence(lambda x: act(x - b), x)).sum()

    for act, seen in ((F.relu, 0.0), (F.softplus, None)):
        b = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(mean(act, b), b)
        true = (mean(act, b + 0.05) - mean(act, b - 0.05)).detach() / 0.1
        if seen is None:
            torch.testing.assert_close(slope, true, rtol=1e-3, atol=0)
        else:
            assert float(slope) == seen
            assert float(true) == pytest.approx(-0.3814, abs=5e-3)  # -p(0.3)
    layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    points, v = torch.randn(2, 5, 3)
    assert not hessian_vector(lambda x: layers(x)[:, 0], points, v)[2].any()


@pytest.mark.parametrize(("kind", "zero"), [("score", True), ("energy", False)])
def test_batch_statistics_are_named(kind, zero, x):
    """In training mode, or without running statistics even in eval mode; for two examples or more,
    and a single one that is looked at twice."""
    network = Network(nn.BatchNorm1d(8), nn.SiLU(), nn.BatchNorm1d(8, affine=False), zero=zero)
    names = "BatchNorm1d in backbone.body.1, BatchNorm1d in backbone.body.3: the score of one"
    model = MODELS[kind](network, VP())
    for rows in (6, 2, 1):
        assert names in refusal(model, x[:rows], 0.3)
    check_differentiable(model.eval(), x, 0.3)
    network.body[1].train()
    said = refusal(model, x, 0.3)
    assert "\n- BatchNorm1d in backbone.body.1: the score of one" in said
    bare = Network(nn.BatchNorm1d(8, track_running_stats=False), zero=zero)
    assert "BatchNorm1d in backbone.body.1" in refusal(MODELS[kind](bare, VP()).eval(), x, 0.3)


def test_examples_that_see_each_other_are_found_though_no_module_is_known_for_it(x):
    model = ScoreFunction(lambda x, t: -x * (x - x.mean(0)).cos())
    assert "something in the model: the score of one example depends" in refusal(model, x)


@pytest.mark.parametrize("kind", MODELS)
def test_fused_attention_is_refused_and_passes_in_its_plain_form(kind, x):
    class WithAttention(Network):
        def __init__(self):
            super().__init__()
            self.attention = Attention()

        def forward(self, x, noise_level, condition=None):
            return self.attention(super().forward(x, noise_level))

    model = MODELS[kind](WithAttention(), VP())
    assert WITHOUT in refusal(model, x)
    assert "sdpa_kernel(SDPBackend.MATH)" in refusal(model, x)
    with sdpa_kernel(SDPBackend.MATH):
        check_differentiable(model, x)


def test_multihead_attention_is_refused():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x, noise_level, condition=None):
            return self.heads(x, x, x, need_weights=False)[0]

    said = refusal(EnergyModel(Heads(), VP()), torch.randn(2, 3, 4), second_derivatives=False)
    assert WITHOUT in said


@pytest.mark.parametrize("kind", MODELS)
def test_functions_without_a_second_derivative_are_refused(kind, x):
    said = refusal(MODELS[kind](Network(nn.SiLU(), nn.Hardsigmoid()), VP()), x)
    assert f"{WITHOUT} (derivative for aten::hardsigmoid_backward is not implemented" in said


@pytest.mark.parametrize("kind", MODELS)
def test_reentrant_checkpoints_are_refused_and_others_pass(kind, x):
    def rerun(reentrant):
        return Functional(lambda h: checkpoint(torch.tanh, h, use_reentrant=reentrant) + h)

    said = refusal(MODELS[kind](rerun(True), VP()), x)
    assert WITHOUT in said
    assert "checkpoints need use_reentrant=False" in said
    check_differentiable(MODELS[kind](rerun(False), VP()), x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_compiled_modules_are_refused(x):
    model = ScoreModel(torch.compile(Network(nn.SiLU()), backend="aot_eager"), VP())
    said = refusal(model, x)
    assert WITHOUT in said
    assert "torch.compile must be off" in said
    assert model.nfe == 0
    check_differentiable(model, x, second_derivatives=False)


def test_derivatives_that_are_not_finite_are_named(x):
    """|f| at f = 0, as a backbone that starts at zero makes it."""

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = Network(nn.SiLU(), zero=True)
            nn.init.zeros_(self.network.last.bias)

        def forward(self, x, t):
            return self.network(x, t).square().sum(1).sqrt()

    said = refusal(EnergyFunction(Norm()), x)
    assert "\n- not finite: the score, its derivative, the gradient of function.network" in said
    assert "and give them a small constant" in said


def test_models_whose_parameters_cannot_learn_are_refused(x):
    """The head |f|^2 / 2 has no gradient where f is zero, and a backbone may start there."""
    network = Network(nn.SiLU(), zero=True)
    nn.init.zeros_(network.last.bias)
    for head in HEADS:
        model = EnergyModel(network, VP(), head)
        if head == "square":
            for second in (True, False):
                said = refusal(model, x, second_derivatives=second)
                assert "no parameter gets a gradient" in said
                assert "head='square'" in said
        else:
            check_differentiable(model, x)
    nn.init.normal_(network.last.weight)
    check_differentiable(EnergyModel(network, VP(), "square"), x)


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))

    def forward(self, x, t):
        with torch.no_grad():
            return self.network(x)


class Slope(torch.autograd.Function):
    """x^3, whose derivative comes without one of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class Foreign:
    """The protocol by hand, with a score that has no graph at all."""

    nfe, sde = 0, VP()

    def score(self, x, t, condition=None):
        return -x.detach()

    denoise = noise = velocity = score


def test_scores_whose_graph_is_cut_are_refused(x):
    assert "\n- no parameter gets a gradient" in refusal(ScoreFunction(Cut()), x)
    assert "graph is cut (detach" in refusal(ScoreFunction(lambda x, t: Slope.apply(x)), x)
    held = Cut()
    assert "\n- no parameter gets a gradient" in refusal(ScoreFunction(lambda x, t: held(x, t)), x)
    said = refusal(Foreign(), x)
    assert "\n- the score has no graph: it is computed under torch.no_grad()" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("training", "bad"), [(True, True), (True, False), (False, False)])
def test_nothing_is_left_behind(training, bad, x):
    """Parameters, gradients, buffers, modes, hooks, nfe, random states and x are as before, whether
    the model passes or not."""
    middle = [nn.Dropout(0.3), nn.utils.spectral_norm(nn.Linear(8, 8)), nn.SiLU()]
    network = Network(*middle, *([nn.BatchNorm1d(8), nn.ReLU()] if bad else []), zero=True)
    model = EnergyModel(network, VP()).train(training)
    model.score(x, 0.5).sum().backward()
    model.nfe = 7
    parameters = {name: (p, p.data_ptr(), p._version) for name, p in model.named_parameters()}
    before = copy.deepcopy(model.state_dict())
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    state, image = torch.get_rng_state(), x.clone()
    if bad:
        refusal(model, x, 0.5)
    else:
        check_differentiable(model, x, 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.nfe == 7
    assert model.training is network.body[1].training is training
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    for name, p in model.named_parameters():
        assert (p, p.data_ptr(), p._version) == parameters[name]
        assert (p.grad is None) == (gradients[name] is None)
        assert p.grad is None or torch.equal(p.grad, gradients[name])
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in (model, network, network.last))
    assert torch.equal(x, image)
    assert not x.requires_grad


def test_it_is_cheap_and_asks_for_matching_rows():
    """Four examples at most, each with its own time and condition, in a dozen calls, whatever mode
    the caller is in."""
    seen = []

    def function(x, t, condition):
        seen.append(len(x))
        assert len(x) == len(t) == len(condition)
        return -x * torch.sigmoid(x * t[:, None] * condition[:, None])

    x, t, condition = torch.randn(500, 2), torch.linspace(0.1, 1, 500), torch.arange(500.0)
    model = ScoreFunction(function)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            check_differentiable(model, x, t, condition)
    assert set(seen) == {4}
    assert len(seen) <= 2 * 13
    assert model.nfe == 0


def test_wrong_arguments_are_refused_by_name(x):
    with pytest.raises(
        TypeError, match="model is a Linear; accepted: a ScoreModel, an EnergyModel"
    ):
        check_differentiable(nn.Linear(3, 3), x)
    model = ScoreFunction(lambda x, t: x)
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        check_differentiable(model, x.long())
    with pytest.raises(ValueError, match="needs='noise' is not known; accepted: score, energy"):
        check_differentiable(model, x, needs="noise")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        check_differentiable(ScoreModel(Network(), VP()), torch.randn(4, 5))
