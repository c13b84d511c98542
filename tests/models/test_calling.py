"""Any callable of (x, t) is a model like ours: its parameters, dtype and device, and refusals."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sde_score.discrete import HierarchicalVAE, NoiseScales
from sde_score.guidance import Clipped
from sde_score.likelihood import bits_per_dim, log_prob, variational_bound
from sde_score.models import EnergyFunction, EnergyModel, ScoreFunction, ScoreModel, divergence
from sde_score.models.held import networks_in
from sde_score.samplers import create
from sde_score.scaling import Scaling
from sde_score.sdes import VP

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZE = 8  # parameters of a Net


class Net(nn.Module):
    """A small network that wants one t for each example, as most do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, t):
        return 0.1 * self.layer(torch.cat([x, t[:, None]], 1)) - x

    def alias(self, x, t):
        return self(x, t)


class Holder:
    def __init__(self, network):
        self.network, self.name = network, "mine"

    def __call__(self, x, t):
        return self.network(x, t)

    def score(self, x, t):
        return self.network(x, t)


GLOBAL = Net()
SHELF = SimpleNamespace(own=GLOBAL, other=Net())


def by_global(x, t):
    return GLOBAL(x, t)


def by_helper(x, t):
    return by_global(x, t)


def with_network(network, x, t):
    return network(x, t)


def nested(network):
    def score(x, t):
        return sum(one(x, t) for one in [network])

    return score


WAYS = {
    "module": lambda net: net,
    "closure": lambda net: lambda x, t: net(x, t),
    "inner function": nested,
    "default": lambda net: lambda x, t, own=net: own(x, t),
    "global": lambda net: by_global,
    "helper": lambda net: by_helper,
    "attribute": lambda net: lambda x, t: SHELF.own(x, t),
    "partial": lambda net: functools.partial(with_network, net),
    "keyword of a partial": lambda net: functools.partial(lambda x, t, own: own(x, t), own=net),
    "bound method": lambda net: net.alias,
    "object": Holder,
    "method of an object": lambda net: Holder(net).score,
    "list": lambda net: lambda x, t, nets=[net]: nets[0](x, t),
    "layer alone": lambda net: lambda x, t: -x + 0 * net.layer.weight.sum(),
    "wrapped": lambda net: functools.wraps(by_global)(lambda x, t: net(x, t)),
    "two": lambda net: lambda x, t: 0.5 * (net(x, t) + net(x, t)),
}


def owner(way):
    return GLOBAL if way in ("global", "helper", "attribute") else Net()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_every_callable_is_a_model_in_every_dtype(way, dtype):
    """Parameters are the model's, samples are at least float32, and answers have the dtype of x."""
    network = owner(way)
    model = ScoreFunction(WAYS[way](network), VP()).to(dtype)
    assert {id(p) for p in model.parameters()} == {id(p) for p in network.parameters()}
    assert sum(p.numel() for p in model.parameters()) == SIZE
    assert network.layer.weight.dtype == dtype
    state = torch.promote_types(dtype, torch.float32)
    sample = create("ddim", steps=2)(model, (3, 2), seed=0, progress=False)
    assert sample.dtype == state
    for x in (torch.randn(3, 2), torch.randn(3, 2).double()):
        assert model.score(x, 0.5).dtype == x.dtype
        loss = model.score(x, torch.full((3,), 0.5)).sum()
        assert torch.autograd.grad(loss, network.layer.weight)[0].isfinite().all()
    network.float()


@pytest.mark.parametrize("way", WAYS)
def test_every_callable_has_likelihoods(way):
    """States are float64 there, whatever the network computes in."""
    model = ScoreFunction(WAYS[way](owner(way)), VP())
    x = torch.randn(2, 2)
    assert log_prob(model, x, rtol=0.1, atol=0.1).log_prob.isfinite().all()
    assert variational_bound(model, x, draws=1, times=1).nats.isfinite().all()


def test_bits_of_a_closure():
    network = Net()
    model, raw = ScoreFunction(lambda x, t: network(x, t)), torch.tensor([[0, 3], [2, 1]])
    for by in ("flow(rtol=1e-2, atol=1e-2)", "bound(times=1)", "elbo(layers=2)"):
        assert bits_per_dim(model, raw, Scaling.discrete(4), by).values.isfinite().all()


def energy_of(network):
    return lambda x, t: (network(x, t) * x).sum(1)


@pytest.mark.parametrize("made", ["energy", "backbone", "energy backbone", "clipped"])
def test_all_kinds_of_models_find_the_network_of_a_closure(made):
    network, sde = Net().double(), VP()

    def closure(x, t):
        return network(x, t)

    model = {
        "energy": lambda: EnergyFunction(energy_of(network), sde),
        "backbone": lambda: ScoreModel(closure, sde),
        "energy backbone": lambda: EnergyModel(closure, sde),
        "clipped": lambda: Clipped(ScoreFunction(closure, sde)),
    }[made]()
    assert sum(p.numel() for p in model.parameters()) == SIZE
    x = torch.randn(3, 2)
    assert create("ddim", steps=2)(model, (3, 2), seed=0, progress=False).dtype == torch.float64
    assert model.score(x, 0.5).dtype == torch.float32
    field = divergence(lambda x: model.velocity(x, torch.tensor(0.5)), x)
    assert field.isfinite().all()
    assert log_prob(model, x, rtol=1e-2, atol=1e-2).log_prob.isfinite().all()


def test_discrete_views_take_a_closure():
    network, sde = Net(), VP()
    model, x = ScoreFunction(lambda x, t: network(x, t), sde), torch.randn(3, 2)
    assert HierarchicalVAE.from_sde(sde, 3).elbo(model, x).nats.isfinite().all()
    sampler = NoiseScales.from_sde(sde, 3).sampler(steps_each=1)
    assert sampler(model, (3, 2), seed=0, progress=False).isfinite().all()


def test_gradients_of_a_likelihood_reach_a_network_in_a_closure():
    network = Net()
    model = ScoreFunction(lambda x, t: network(x, t), VP())
    log_prob(model, torch.randn(2, 2), rtol=1e-2, atol=1e-2, grad=True).log_prob.sum().backward()
    assert float(network.layer.weight.grad.norm()) > 0


def test_a_network_in_a_compiled_function_is_found():
    network = Net()
    assert networks_in(torch.compile(lambda x, t: network(x, t))) == [network]


def test_loose_parameters_are_found_and_mode_reaches_the_network():
    weight, network = nn.Parameter(torch.ones(())), nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model = ScoreFunction(lambda x, t: weight * network(x), VP())
    assert sum(p.numel() for p in model.parameters()) == 7
    model.eval()
    assert not network.training
    model.double()
    assert weight.dtype == torch.float64
    assert ScoreFunction(lambda x, t: weight * x).double().score(torch.ones(1, 2), 0.5).sum() == 2


def test_the_widest_dtype_counts_and_models_keep_their_own():
    low, high = nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2)
    both = ScoreFunction(lambda x, t: high(low(x.bfloat16()).float() + x), VP())
    assert both.score(torch.randn(3, 2).double(), 0.5).dtype == torch.float64
    inner, x = ScoreModel(Net(), VP()), torch.randn(3, 2).double()
    outer = ScoreFunction(lambda x, t: inner.score(x, t), VP())
    assert torch.equal(outer.score(x, 0.5), inner.score(x, 0.5))  # to the last bit of float64


def test_a_function_that_takes_a_scalar_t_gets_what_was_asked():
    """A formula of t is not given one t per example, which it may broadcast along events."""
    seen = []

    def score(x, t):
        seen.append(t.shape)
        return -x / (1 + t)

    ScoreFunction(score).score(torch.ones(2, 2), 0.5)
    assert seen == [()]
    calls = []

    def each(x, t):
        calls.append(t.shape)
        assert t.ndim == 1
        return -x

    model = ScoreFunction(each)
    for _ in range(2):
        model.score(torch.ones(2, 2), 0.5)
    assert calls == [(), (2,), (2,)]  # the way is remembered


def test_copies_are_copies_or_refused():
    """A copy that trains other weights than it computes with would be wrong without a word."""
    for way in ("module", "partial", "bound method", "object"):
        model = ScoreFunction(WAYS[way](Net()), VP())
        twin = copy.deepcopy(model).double()
        assert twin.score(torch.ones(1, 2), 0.5).isfinite().all()
        assert next(model.parameters()).dtype == torch.float32
    for way in ("closure", "global", "default"):
        with pytest.raises(TypeError, match="not copied with it: give ScoreFunction the network"):
            copy.deepcopy(ScoreFunction(WAYS[way](owner(way)), VP()))
    mean = torch.ones(2)
    copy.deepcopy(ScoreFunction(lambda x, t: mean - x))


class Opaque:
    """Holds its network where nobody finds it."""

    __slots__ = ("network",)

    def __init__(self, network):
        self.network = network

    def __call__(self, x, t):
        return self.network(x)


class Sampled:
    def __init__(self, sample):
        self.sample = sample


WRONG = {
    "a class": (lambda: ScoreFunction(Net), r"function=.*Net.* must be .*: write Net\(\.\.\.\)"),
    "a tensor": (lambda: ScoreFunction(torch.ones(2)), "must be a network or function, called as"),
    "x alone": (lambda: ScoreFunction(nn.Linear(2, 2)), r"fits neither: write lambda x, t: net"),
    "label": (lambda: ScoreModel(nn.Linear(2, 2), VP()), r"write lambda x, time_label: network"),
    "opaque": (
        lambda: ScoreFunction(Opaque(nn.Linear(2, 2))).score(torch.ones(1, 2).double(), 0.5),
        r"the function Opaque of this ScoreFunction cannot compute with x of torch.float64 \(.*\): "
        r"give the network itself.*lambda x, t: network\(x.float\(\), t.float\(\)\)",
    ),
    "a tuple": (
        lambda: ScoreFunction(lambda x, t: (x, t)).score(torch.ones(1, 2), 0.5),
        r"the function returned a tuple of 2; .* such as network\(\.\.\.\)\[0\]",
    ),
    "a dictionary": (
        lambda: ScoreModel(lambda x, t: {"out": x}, VP()).score(torch.ones(1, 2), 0.5),
        r"the backbone returned a dict; .* network\(\.\.\.\)\['out'\]",
    ),
    "an object": (
        lambda: EnergyFunction(lambda x, t: Sampled(x)).energy(torch.ones(1, 2), 0.5),
        r"returned a Sampled; .* network\(\.\.\.\)\.sample",
    ),
    "nothing": (
        lambda: ScoreFunction(lambda x, t: None).score(torch.ones(1, 2), 0.5),
        "returned NoneType; it must return one floating-point tensor",
    ),
    "an array": (
        lambda: ScoreFunction(lambda x, t: x.numpy()).score(torch.ones(1, 2), 0.5),
        "returned a NumPy array of float32; it must",
    ),
    "integers": (
        lambda: ScoreFunction(lambda x, t: x.long()).score(torch.ones(1, 2), 0.5),
        r"returned a tensor of torch.int64; .*\.float\(\)",
    ),
    "complex numbers": (
        lambda: ScoreFunction(lambda x, t: x + 1j).score(torch.ones(1, 2), 0.5),
        r"returned a tensor of torch.complex64; .*\.real",
    ),
    "a condition": (
        lambda: ScoreFunction(by_global).score(torch.ones(1, 2), 0.5, torch.zeros(1)),
        "the function by_global takes x and t alone: give it a third argument",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_score_is_refused_with_its_name_and_a_fix(case):
    make, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_errors_of_the_network_itself_stay_as_they_are():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        ScoreFunction(lambda x, t: nn.Linear(5, 2)(x)).score(torch.ones(1, 2), 0.5)
    with pytest.raises(KeyError, match="mine"):
        ScoreFunction(lambda x, t: {}["mine"]).score(torch.ones(1, 2), 0.5)


def test_a_dictionary_of_conditions():
    """Arrays become tensors, entries fit the batch, and `label` is the class."""
    seen = []

    def network(x, t, condition):
        seen.append(condition)
        return x

    model = ScoreModel(network, VP())
    x = torch.randn(2, 3)
    label = torch.tensor([1, 2])
    model.score(x, 0.5, {"label": label.numpy(), "augment": torch.ones(2, 9), "estimate": None})
    assert set(seen[0]) == {"label", "augment"}
    assert torch.equal(seen[0]["label"], label)
    with pytest.raises(ValueError, match=r"shape \(3, 9\) for 2 examples"):
        model.score(x, 0.5, {"augment": torch.ones(3, 9)})
    model.needs_condition = True
    model.score(x, 0.5, {"label": label})
    with pytest.raises(ValueError, match=r"condition is missing"):
        model.score(x, 0.5, {"augment": torch.ones(2, 9)})
    with pytest.raises(TypeError, match=r"condition was given"):
        ScoreModel(lambda x, t: x, VP()).score(x, 0.5, {"label": label})
