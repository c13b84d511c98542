"""The contract of every SDE beside its mathematics: shapes, dtypes, refusals, identity."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest
import torch
from torch.distributions import Normal

from sde_score import sdes
from sde_score.sdes import EDM, VE, VP, Cosine, Prior, Rectified, SubVP

OF_TIME = (
    "alpha",
    "sigma",
    "alpha_derivative",
    "sigma_derivative",
    "log_snr",
    "drift_rate",
    "diffusion",
)


def middle(sde):
    return 0.5 * (sde.t_min + sde.t_max)


@pytest.mark.parametrize("name", OF_TIME)
def test_results_have_the_shape_and_dtype_of_t(sde, name):
    method, t = getattr(sde, name), middle(sde)
    assert method(t).dtype == torch.float64
    assert method(t).shape == ()
    for dtype in (torch.float32, torch.float64):
        batch = torch.full((3,), t, dtype=dtype)
        assert method(batch).dtype == dtype
        assert method(batch).shape == (3,)
        assert method(batch[0]).shape == ()
    torch.testing.assert_close(method(batch)[1], method(t), rtol=1e-15, atol=0)


def test_integer_times_are_times():
    assert VP().alpha(1).item() == VP().alpha(1.0).item()
    assert EDM().sigma(torch.tensor([1, 80])).tolist() == [1.0, 80.0]


@pytest.mark.parametrize("event", [(), (5,), (2, 3), (3, 4, 4), (1, 2, 3, 2)])
@pytest.mark.parametrize("batch", [1, 4])
def test_any_event_shape_row_by_row(sde, event, batch):
    """Each example sees its own t, also where the batch equals an event dimension."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, *event)
    x, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    t = torch.linspace(sde.t_min, sde.t_max, 6, dtype=torch.float64)[1 : 1 + batch]

    def score(x, t):
        return torch.sin(x)

    whole = [
        sde.drift(x, t),
        sde.marginal(x, t)[0],
        sde.perturb(x, t, noise),
        sde.reverse(score)(x, t),
        sde.probability_flow(score)(x, t),
    ]
    for i in range(batch):
        u, a, s = t[i].item(), sde.alpha(t[i]).item(), sde.sigma(t[i]).item()
        f, g2 = sde.drift_rate(u).item(), sde.diffusion(u).item() ** 2
        rows = [
            f * x[i],
            a * x[i],
            a * x[i] + s * noise[i],
            f * x[i] - g2 * x[i].sin(),
            f * x[i] - 0.5 * g2 * x[i].sin(),
        ]
        for got, want in zip(whole, rows, strict=True):
            assert got.shape == shape
            torch.testing.assert_close(got[i], want, rtol=1e-12, atol=1e-13)
    assert sde.marginal(x, t)[1].shape == (batch,)
    assert sde.marginal(x, middle(sde))[1].shape == ()


def test_square_batches_are_not_broadcast_along_the_event(sde):
    x = torch.ones(4, 4, dtype=torch.float64)
    t = torch.linspace(sde.t_min, sde.t_max, 6, dtype=torch.float64)[1:5]
    noisy = sde.perturb(x, t, 2 * x)
    assert bool((noisy == noisy[:, :1]).all())
    assert float(noisy[:, 0].diff().abs().min()) > 0


def test_state_keeps_its_dtype_whatever_that_of_t(sde):
    x = torch.ones(2, 3)
    t = torch.full((2,), middle(sde), dtype=torch.float64)
    assert sde.drift(x, t).dtype == torch.float32
    assert sde.perturb(x, t, x).dtype == torch.float32
    assert sde.marginal(x, t)[0].dtype == torch.float32
    assert sde.marginal(x, t)[1].dtype == torch.float64
    scale, std = sde.transition(0.9 * t, t.float())
    assert scale.dtype == std.dtype == torch.float32


@pytest.mark.parametrize("name", OF_TIME)
def test_times_outside_the_range_are_refused(sde, name):
    method = getattr(sde, name)
    outside = [sde.t_max * 1.01, -0.1, math.nan, math.inf, -math.inf]
    if sde.t_min > 0:
        outside.append(sde.t_min * 0.9)
    for bad in outside:
        with pytest.raises(ValueError, match=r"^t=.*leaves \[.*times of " + type(sde).__name__):
            method(bad)
        with pytest.raises(ValueError, match="leaves"):
            method(torch.tensor([middle(sde), bad]))
    for good in (sde.t_min, sde.t_max):
        assert method(good).isfinite()
        assert method(torch.tensor(good, dtype=torch.float32)).isfinite()


def test_times_of_the_wrong_shape_are_refused(sde):
    x = torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"t has shape \(4, 1\)"):
        sde.drift(x, torch.full((4, 1), middle(sde)))
    for count in (1, 3):
        t = torch.full((count,), middle(sde))
        for call in (
            lambda t=t: sde.drift(x, t),
            lambda t=t: sde.marginal(x, t),
            lambda t=t: sde.perturb(x, t, x),
            lambda t=t: sde.reverse(lambda x, t: x)(x, t),
        ):
            with pytest.raises(ValueError, match=rf"t of shape \({count},\) does not fit x"):
                call()


def test_states_that_are_no_batch_are_refused(sde):
    with pytest.raises(TypeError, match="x0 must be a floating-point tensor"):
        sde.marginal(torch.ones(2, 3, dtype=torch.int64), middle(sde))
    with pytest.raises(ValueError, match="x0 must have shape"):
        sde.marginal(torch.tensor(1.0), middle(sde))
    with pytest.raises(ValueError, match=r"noise has shape \(3,\), x0 has \(2, 3\)"):
        sde.perturb(torch.ones(2, 3), middle(sde), torch.ones(3))


def test_transition_refuses_to_run_backward(sde):
    with pytest.raises(ValueError, match="must not exceed"):
        sde.transition(sde.t_max, sde.t_min)
    early = torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)
    with pytest.raises(ValueError, match="forward in time"):
        sde.transition(early, early.flip(0))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, "1", None])
@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (VP, "beta_min", "beta_max"),
        (SubVP, "beta_min", "beta_max"),
        (VE, "sigma_min", "sigma_max"),
        (EDM, "sigma_min", "sigma_max"),
        (Cosine, "offset", "offset"),
    ],
)
def test_parameters_that_are_no_positive_numbers_are_refused_by_name(kind, low, high, bad):
    for name in {low, high}:
        with pytest.raises(ValueError, match=f"{name}=.*finite number greater than 0"):
            kind(**{name: bad})


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (VP, "noise rate"),
        (SubVP, "noise rate"),
        (VE, "largest distance"),
        (EDM, "largest distance"),
    ],
)
def test_bounds_that_do_not_increase_are_refused_with_the_usual_fix(kind, hint):
    for low, high in ((2.0, 1.0), (2.0, 2.0)):
        with pytest.raises(ValueError, match=f"_max={high}.*must exceed .*_min={low}.*{hint}"):
            kind(low, high)


def test_sdes_are_values(sde):
    """Immutable, comparable, hashable, printable, and stored without loss."""
    kind, fields = type(sde), dataclasses.asdict(sde)
    assert kind(**fields) == sde
    assert hash(kind(**fields)) == hash(sde)
    assert eval(repr(sde), vars(sdes)) == sde
    assert pickle.loads(pickle.dumps(sde)) == copy.deepcopy(sde) == sde
    for name in (*fields, "anything"):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            setattr(sde, name, 1.0)
    others = {VP(), SubVP(), Cosine(0.3), VE(), EDM(), Rectified(), VP(0.1, 20.5)} - {sde}
    assert all(other != sde for other in others)


def test_registry_builds_every_sde_by_name_and_from_text():
    kinds = {"vp": VP, "subvp": SubVP, "cosine": Cosine, "ve": VE, "edm": EDM}
    kinds["rectified"] = Rectified
    assert [name for name in sdes.available() if name in kinds] == list(kinds)
    for name, kind in kinds.items():
        assert type(sdes.create(name)) is kind
        assert sdes.create(name) == kind()
    assert sdes.create("vp(beta_max=12)") == VP(beta_max=12)
    assert sdes.create("vp(beta_max=12, beta_min=1)", beta_max=5) == VP(1, 5)


def test_registry_refuses_what_it_does_not_know():
    with pytest.raises(
        ValueError, match=r"unknown SDE 'vpp'; did you mean 'vp'.*accepted: vp, subvp"
    ):
        sdes.create("vpp")
    with pytest.raises(
        ValueError, match="'vp' does not take sigma_max; accepted: beta_min, beta_max"
    ):
        sdes.create("vp(sigma_max=3)")
    with pytest.raises(ValueError, match="beta_max=-1"):
        sdes.create("vp(beta_max=-1)")


def test_samplers_stop_inside_the_range(sde):
    assert sde.t_min <= sde.sampling_t_min < 0.1 * sde.t_max
    if isinstance(sde, VP | SubVP | Cosine | Rectified):
        assert sde.sampling_t_min == 1e-3
    if isinstance(sde, VE | EDM):
        assert sde.sampling_t_min == sde.t_min


def test_prior_is_what_unit_variance_data_become(sde):
    """Exactly for variance-preserving SDEs, up to the data's own spread elsewhere."""
    distribution = sde.prior((5, 2, 3))
    assert distribution.shape == (5, 2, 3)
    if isinstance(sde, VP | SubVP | Cosine):
        assert distribution.std == 1.0
    else:
        assert distribution.std == sde.sigma(sde.t_max).item()


def test_prior_density_and_draws():
    distribution = Prior((4000, 2, 3), 2.5)
    x = distribution.sample(torch.Generator().manual_seed(0), dtype=torch.float64)
    assert x.shape == (4000, 2, 3)
    assert x.std().item() == pytest.approx(2.5, rel=0.02)
    assert abs(x.mean().item()) < 0.1
    truth = Normal(torch.tensor(0.0).double(), 2.5).log_prob(x).sum((1, 2))
    torch.testing.assert_close(distribution.log_prob(x), truth, rtol=1e-12, atol=1e-12)
    assert distribution.log_prob(x[:7]).shape == (7,)
    again = distribution.sample(torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(x, again)
    with pytest.raises(ValueError, match=r"event shape \(3, 2\), the prior has \(2, 3\)"):
        distribution.log_prob(x.mT)
