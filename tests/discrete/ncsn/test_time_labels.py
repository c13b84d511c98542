"""Labels of other code against their own formulas, their direction, and their recorded losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sde_score.discrete import LABELS, LabelConvention, labelled
from sde_score.models import GaussianMixture, ScoreFunction
from sde_score.objectives import DenoisingScoreMatching
from sde_score.sdes import EDM, VE, VP, Cosine, Rectified, SubVP, Tabulated

F64 = torch.float64
WHOLE = ["ncsn", "ncsnv2", "score-sde-ve-discrete", "ddpm"]
VE_LIKE = ["ncsn", "ncsnv2", "score-sde-ve", "score-sde-ve-discrete"]


def sde_of(name):
    return VE(0.05, 9.0) if name in VE_LIKE else VP(0.3, 12.0)


def steps_down(name, count):
    """Times of `count` steps on the convention's own grid, from the least noise."""
    return torch.linspace(0, 1, count, dtype=F64) if name != "ddpm" else (
        torch.arange(1, count + 1, dtype=F64) / count
    )  # fmt: skip


@pytest.mark.parametrize("name", ["ncsn(n=30)", "ncsnv2(n=30)", "score-sde-ve-discrete(n=30)"])
def test_an_index_of_ncsn_counts_down_from_the_most_noise(name):
    sde, convention = VE(0.05, 9.0), LABELS.create(name)
    ladder = np.geomspace(9.0, 0.05, 30)
    index = torch.arange(30)
    np.testing.assert_allclose(sde.sigma(convention.time(sde, index)), ladder, rtol=1e-12)
    for i, sigma in enumerate(ladder):
        t = math.log(sigma / 0.05) / math.log(9.0 / 0.05)
        assert convention.label(sde, min(t, 1.0)).item() == i
    assert convention.label(sde, 1.0).item() == 0
    assert convention.time(sde, 0).item() == pytest.approx(1.0, abs=1e-12)


def test_an_index_of_ddpm_counts_up_from_the_least_noise():
    """Entry 0 of the table of betas belongs to layer 1, at t = 1 / n."""
    convention = LABELS.create("ddpm")
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    sde, products = Tabulated.from_betas(betas), (1 - betas).cumprod(0)
    times = convention.time(sde, torch.arange(1000))
    torch.testing.assert_close(sde.alpha(times) ** 2, products, rtol=1e-10, atol=0)
    assert convention.label(sde, times).tolist() == list(range(1000))
    assert convention.label(VP(), 1e-5).item() == 0
    assert convention.label(VP(), 1.0).item() == 999
    assert convention.label(VP(), 0.25).item() == 249


@pytest.mark.parametrize("sde", [VP(0.4, 9.0), SubVP()], ids=str)
def test_multiples_of_time(sde):
    t = torch.tensor([1e-5, 0.1234, 0.5, 1.0], dtype=F64)
    for name, factor in (
        ("score-sde-vp", 999), ("score-sde-vp-discrete", 999), ("score-sde-vp-discrete(n=50)", 49),
    ):  # fmt: skip
        convention = LABELS.create(name)
        torch.testing.assert_close(convention.label(sde, t), factor * t, rtol=1e-14, atol=0)
        torch.testing.assert_close(convention.time(sde, factor * t), t, rtol=1e-14, atol=0)


def test_noise_itself_and_its_logarithm(sde):
    t = sde.t_min + torch.tensor([0.01, 0.3, 0.77, 1.0], dtype=F64) * (sde.t_max - sde.t_min)
    level = sde.sigma(t) / sde.alpha(t)
    for name, want in (("score-sde-ve", level), ("edm", level.log() / 4)):
        convention = LABELS.create(name)
        torch.testing.assert_close(convention.label(sde, t), want, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(convention.time(sde, want), t, rtol=1e-8, atol=0)
    assert LABELS.create("score-sde-ve").label(VE(0.01, 50.0), 1.0).item() == pytest.approx(50.0)


@pytest.mark.parametrize("name", LABELS)
def test_labels_lead_back_to_their_times(name):
    """On the convention's own grid exactly; between its entries an index goes to the nearest."""
    convention, sde = LABELS.create(name), sde_of(name)
    n = getattr(convention, "n", 100)
    t = steps_down(name, n).clamp(min=sde.t_min)
    label = convention.label(sde, t)
    assert label.dtype == (torch.int64 if name in WHOLE else F64)
    assert label.shape == t.shape
    torch.testing.assert_close(
        convention.time(sde, label), t, rtol=0, atol=1e-5 if n > 500 else 1e-12
    )
    assert torch.equal(convention.label(sde, convention.time(sde, label)), label) or (
        name not in WHOLE
    )
    falls = name in ("ncsn", "ncsnv2", "score-sde-ve-discrete")
    assert bool((label.double().diff() < 0).all() if falls else (label.diff() > 0).all())
    if name in WHOLE:
        near = (t[1:-1] + torch.tensor([-0.4, 0.4]).double()[:, None] / n).flatten()
        assert convention.label(sde, near).tolist() == 2 * label[1:-1].tolist()


def test_shapes_and_types():
    for name in LABELS:
        convention, sde = LABELS.create(name), sde_of(name)
        scalar = convention.label(sde, 0.5)
        assert scalar.ndim == 0
        assert convention.label(sde, torch.tensor([0.5, 0.2])).shape == (2,)
        assert convention.time(sde, scalar).dtype == F64
        half = convention.label(sde, torch.tensor(0.5))
        assert half.dtype == (torch.int64 if name in WHOLE else torch.float32)
        assert convention == LABELS.create(name)


def test_ladders_of_other_diffusions_are_geometric_in_their_noise(sde):
    convention = LABELS.create("ncsn(n=6)")
    times = convention.time(sde, torch.arange(6))
    level = (sde.sigma(times) / sde.alpha(times)).log()
    torch.testing.assert_close(level.diff(), level.diff().mean().expand(5), rtol=1e-6, atol=0)
    assert convention.label(sde, times).tolist() == list(range(6))
    assert times[0].item() == pytest.approx(sde.t_max)


NAMES = ("W1", "b1", "W2", "b2")


def their_networks(arrays):
    """`linear` and `mlp` of the reference, told labels."""
    w1, b1, w2, b2 = (arrays[f"mlp.{name}"] for name in NAMES)

    def linear(x, labels):
        return 0.8 * x * (1 + 0.5 * (labels.double() / 1000).reshape(-1, 1, 1, 1)) + 0.1

    def mlp(x, labels):
        inputs = torch.cat([x.flatten(1), (labels.double() / 1000)[:, None]], 1)
        return (torch.tanh(inputs @ w1.mT + b1) @ w2.mT + b2).reshape(x.shape)

    return {"linear": linear, "mlp": mlp}


@pytest.mark.parametrize("network", ["linear", "mlp"])
@pytest.mark.parametrize("name", ["smld", "ddpm"])
def test_discrete_losses_of_score_sde(name, network, reference, close):
    """Their network, their labels: a model in one line, and its loss is theirs."""
    arrays, description = reference("loss_discrete")
    low, high, n = description["params"]["ve" if name == "smld" else "vp"]
    if name == "smld":
        sde, convention, output = VE(low, high), f"score-sde-ve-discrete(n={n})", "score"
    else:
        betas = torch.linspace(low / n, high / n, n, dtype=F64)
        sde, convention, output = Tabulated.from_betas(betas), f"ddpm(n={n})", "noise"
    model = ScoreFunction(labelled(their_networks(arrays)[network], convention, sde, output), sde)
    t = LABELS.create(convention).time(sde, arrays[f"{name}.labels"])
    loss = DenoisingScoreMatching().at(model, arrays["batch"], t, arrays["z"])
    close(loss, arrays[f"{name}.mean.{network}.loss_per_sample"])
    close(12 * loss, arrays[f"{name}.sum.{network}.loss_per_sample"])
    # One index off is another loss.
    for shifted in (-1, 1):
        labels = (arrays[f"{name}.labels"] + shifted).clamp(0, n - 1)
        moved = LABELS.create(convention).time(sde, labels)
        other = DenoisingScoreMatching().at(model, arrays["batch"], moved, arrays["z"])
        assert (other / loss - 1).abs().max() > 1e-4


@pytest.mark.parametrize("output", ["score", "noise", "data"])
@pytest.mark.parametrize("name", ["edm", "score-sde-vp"])
def test_networks_of_score_noise_and_data_become_one_model(name, output):
    """A network that undoes the label and knows the truth gives the true score."""
    sde, convention = VP(), LABELS.create(name)
    truth = GaussianMixture([[1.0, -0.5], [-1.0, 0.3]], 0.2, sde)
    seen = []

    def network(x, labels, *condition):
        seen.append((labels, condition))
        t = convention.time(sde, labels)
        if output == "data":
            return truth.denoise(x, t)
        return truth.score(x, t) if output == "score" else truth.noise(x, t)

    model = ScoreFunction(labelled(network, name, sde, output), sde)
    x = torch.tensor([[0.3, 0.8], [-1.1, 0.1], [0.0, 0.4]], dtype=F64)
    for t in (0.3, torch.tensor([0.1, 0.5, 1.0], dtype=F64)):
        want = truth.score(x, t)
        torch.testing.assert_close(model.score(x, t), want, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(model.denoise(x, t), truth.denoise(x, t), rtol=1e-9, atol=1e-11)
    classes = torch.tensor([4, 5, 6])
    model.score(x, 0.3, classes)
    assert all(labels.shape == (3,) for labels, _ in seen)
    assert seen[0][1] == ()
    assert seen[-1][1][0] is classes


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown label convention 'ncsm'; did you mean 'ncsn'"):
        LABELS.create("ncsm")
    for name in (*WHOLE, "score-sde-vp-discrete"):
        with pytest.raises(ValueError, match="n=1 must be an integer of at least 2"):
            LABELS.create(name, n=1)
    for label in (-1, 10, math.nan):
        with pytest.raises(ValueError, match=r"must lie in 0 ... 9"):
            LABELS.create("ncsn").time(VE(), label)
    for name in ("ddpm", "score-sde-ve-discrete", "score-sde-vp", "score-sde-vp-discrete"):
        for ask in (LABELS.create(name).label, LABELS.create(name).time):
            with pytest.raises(ValueError, match=r"shares of t, which runs to 1.*runs to 80"):
                ask(EDM(), 1.0)
    with pytest.raises(ValueError, match="leaves"):
        LABELS.create("score-sde-vp").time(VP(), 1100)
    with pytest.raises(ValueError, match="leaves"):
        LABELS.create("ddpm").time(Cosine(), 999)
    with pytest.raises(ValueError, match="leave those of"):
        LABELS.create("score-sde-ve").time(VE(), 60.0)
    with pytest.raises(ValueError, match="leave those of"):
        LABELS.create("edm").time(EDM(), 2.0)
    with pytest.raises(ValueError, match="leaves"):
        LABELS.create("ncsn").label(Rectified(), 1.5)
    with pytest.raises(ValueError, match="output='x0' is not known; accepted: score, noise, data"):
        labelled(torch.add, "ncsn", VE(), "x0")
    with pytest.raises(TypeError):
        LabelConvention()


def test_a_labelled_network_owns_its_parameters_and_their_dtype():
    """Device, dtype and state are those of the network; inputs follow, outputs come back."""
    seen = []

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, x, label):
            seen.append((x.dtype, label.dtype))
            return self.layer(x)

    sde, net = VP(), Net()
    for convention in ("ddpm(n=1000)", "score-sde-vp"):
        model = ScoreFunction(labelled(net, convention, sde, output="noise"), sde)
        assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}
        assert list(model.state_dict()) == [
            "function.network.layer.weight",
            "function.network.layer.bias",
        ]
        x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
        single = model.to(torch.float32).noise(x, 0.5)
        assert single.dtype == torch.float32
        double = model.to(torch.float64).noise(x, 0.5)
        assert double.dtype == torch.float32
        torch.testing.assert_close(single, double)
    index = torch.int64
    single, double = torch.float32, torch.float64
    assert seen == [(single, index), (double, index), (single, single), (double, double)]
