"""The ladder of NCSN is a diffusion at n times: its levels, its loss, its sampler."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sde_score import samplers
from sde_score.discrete import NoiseScales, NoiseScalesGrid
from sde_score.models import GaussianMixture, ScoreFunction, ScoreModel
from sde_score.sdes import EDM, VE, VP

F64 = torch.float64


def exactly(got, want, rtol=1e-12):
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=F64), rtol=rtol, atol=0)


@pytest.mark.parametrize(("high", "low", "n"), [(50.0, 0.01, 232), (1.0, 0.01, 10), (3.0, 2.0, 2)])
def test_a_geometric_ladder_is_the_ve_diffusion_at_its_sigmas(high, low, n):
    scales = NoiseScales.geometric(high, low, n)
    exactly(scales.sigmas, np.geomspace(high, low, n))
    assert (scales.sigma_max, scales.sigma_min) == (high, low)
    assert scales.ratio == pytest.approx((high / low) ** (1 / (n - 1)), rel=1e-12)
    assert scales.sde == VE(low, high)
    times = scales.times(scales.sde)
    torch.testing.assert_close(times, torch.linspace(1, 0, n, dtype=F64), rtol=0, atol=1e-14)
    exactly(scales.sde.sigma(times), scales.sigmas)
    exactly(NoiseScales.from_sde(scales.sde, n).sigmas, scales.sigmas)
    rising = scales.sde.sigma(scales.sde.discrete_times(n))
    exactly(rising.flip(0), scales.sigmas)


def test_a_ladder_of_any_other_shape_is_met_at_its_times():
    scales = NoiseScales.uniform(8.0, 0.5, 6)
    assert list(scales) == [8.0, 6.5, 5.0, 3.5, 2.0, 0.5]
    assert scales.ratio == 4.0
    assert scales.sde == VE(0.5, 8.0)
    times = scales.times(scales.sde)
    assert bool((times.diff() < 0).all())
    exactly(scales.sde.sigma(times), scales.sigmas)
    exactly(times, np.log(np.array(list(scales)) / 0.5) / np.log(16))


def test_every_diffusion_has_a_geometric_ladder_and_meets_it(sde):
    scales = NoiseScales.from_sde(sde, 9)
    first, last = (float(sde.sigma(t) / sde.alpha(t)) for t in (sde.t_max, sde.sampling_t_min))
    exactly(scales.sigmas, np.geomspace(first, last, 9), rtol=1e-9)
    times = scales.times(sde)
    assert times.dtype == F64
    assert times[0].item() == pytest.approx(sde.t_max, rel=1e-12)
    exactly(sde.sigma(times) / sde.alpha(times), scales.sigmas, rtol=1e-10)


def test_a_ladder_may_be_taken_at_the_times_of_any_grid():
    karras = NoiseScales.from_sde(EDM(0.002, 80.0), 18, grid="karras")
    i = np.arange(18)
    rungs = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    exactly(karras.sigmas, rungs)
    deeper = NoiseScales.from_sde(VP(), 5, grid="log_snr(end=1e-5)")
    assert deeper.sigma_min < 0.2 * NoiseScales.from_sde(VP(), 5).sigma_min


def test_levels_are_read_on_a_diffusion_trained_elsewhere():
    """On VP, x / alpha has the noise sqrt(1 - alpha^2) / alpha: alpha = 1 / sqrt(1 + sigma^2)."""
    scales = NoiseScales([10.0, 1.0, 0.1])
    alpha = VP().alpha(scales.times(VP()))
    exactly(alpha, [(1 + s**2) ** -0.5 for s in (10.0, 1.0, 0.1)], rtol=1e-10)


def test_levels_that_a_diffusion_does_not_have_are_refused():
    scales = NoiseScales.geometric(60.0, 0.01, 5)
    with pytest.raises(ValueError, match=r"from 0.01 to 60 leave .*VE.* from 0.01 to 50"):
        scales.times(VE())
    with pytest.raises(ValueError, match=r"runs from 0.02 to 60: choose levels in between"):
        scales.times(VE(0.02, 60.0))
    with pytest.raises(ValueError, match="choose levels"):
        scales.sampler()(GaussianMixture([[0.0]], 1.0, VE()), (2, 1), progress=False)
    assert len(scales.times(VE(0.01, 60.0))) == 5


def test_a_ladder_is_a_value():
    given = torch.tensor([2.0, 1.0], dtype=F64)
    scales = NoiseScales(given)
    given[0] = 7.0
    assert scales.sigmas.tolist() == [2.0, 1.0]
    assert scales.sigmas.dtype == F64
    assert NoiseScales([0.3, 0.1]).sigma_min == 0.1  # not its float32
    assert scales == NoiseScales([2.0, 1.0])
    assert hash(scales) == hash(NoiseScales((2, 1)))
    assert scales not in (NoiseScales([2.0, 1.5]), NoiseScales([2.0, 1.0, 0.5]), "ladder")
    assert len(scales) == 2
    assert repr(NoiseScales.geometric(50.0, 0.01, 232)) == (
        "NoiseScales(232 levels from 50 to 0.01, ratio 1.038)"
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        scales.sigmas = given
    assert scales.sampler() == NoiseScales([2.0, 1.0]).sampler()


def their_model(arrays, sde, event):
    means, variances = arrays["gmm.mu"], arrays["gmm.var"]
    shape = (len(means), *event)
    return GaussianMixture(means.reshape(shape), variances.reshape(shape), sde, arrays["gmm.w"])


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("build", ["from levels", "geometric"])
def test_the_sampler_of_ncsnv2(build, denoise, reference, close):
    """Their trace, draw by draw, and their result, from their step_lr."""
    arrays, description = reference("ncsn_ald")
    given = description["params"]
    scales = NoiseScales(arrays["sigmas"])
    if build == "geometric":
        scales = NoiseScales.geometric(given["s0"], given["s1"], given["L"])
    model = their_model(arrays, scales.sde, (4, 1, 1))
    seen = []
    score = model.score
    model.score = lambda x, t, condition=None: seen.append(x.clone()) or score(x, t, condition)
    draws = iter(arrays["noise"])
    sampler = scales.sampler(steps_each=given["n"], step_lr=given["lr"], denoise=denoise)
    got = sampler(
        model, arrays["x_start"], noise=lambda: next(draws), trajectory=True, progress=False
    )
    close(got.samples, arrays["result_denoised" if denoise else "result"])
    close(torch.stack(seen), torch.cat([arrays["x_start"][None], arrays["trace"][:-1]]))
    ends = arrays["trace"][given["n"] - 1 :: given["n"]]
    close(got.states[1 : given["L"]], ends[1:])
    assert got.nfe == given["L"] * given["n"] + denoise


def test_the_loss_of_ncsnv2(reference, close):
    """Half the sum over entries of their square is D / 2 times our mean."""
    arrays, description = reference("ncsn_ald")
    given = description["params"]
    scales = NoiseScales.geometric(given["s0"], given["s1"], given["L"])
    sde = scales.sde

    def network(x, labels):
        sigma, label = (v.reshape(-1, 1, 1, 1) for v in (arrays["sigmas"][labels], labels.double()))
        return -x / (1 + sigma**2) + 0.1 * label

    model = ScoreModel(network, sde, f"ncsnv2(n={given['L']})")
    x0, t = arrays["loss.batch"], scales.times(sde)[arrays["loss.labels"]]
    objective = scales.objective()
    loss = objective.at(model, x0, t, arrays["loss.z"]) * x0[0].numel() / 2
    close(loss, arrays["loss.per_sample"])
    close(loss.mean(), arrays["loss.value"])
    # lambda = 1 divides each by its sigma^2: their anneal_power of 0.
    plain = scales.objective(weighting="unit").at(model, x0, t, arrays["loss.z"])
    sigma = arrays["sigmas"][arrays["loss.labels"]]
    close(plain * x0[0].numel() / 2, arrays["loss.per_sample"] / sigma**2)


def test_the_objective_visits_each_rung_once_where_it_is_stratified(sde):
    scales = NoiseScales.from_sde(sde, 7)
    objective = scales.objective(stratified=True)
    x0 = torch.zeros(7, 2)
    for seed in range(20):
        t, importance, _ = objective.draw(sde, x0, torch.Generator().manual_seed(seed))
        exactly((sde.sigma(t) / sde.alpha(t)).sort().values.flip(0), scales.sigmas, rtol=1e-9)
        assert bool((importance == 1).all())
    other = scales.objective(weighting="likelihood", variance_reduction="constant")
    assert (other.weighting, other.variance_reduction) == ("likelihood", "constant")
    assert not other.time_sampler.stratified


def test_the_loss_over_a_ladder_is_the_mean_over_its_levels():
    """For data at 0 and score -x / (1 + sigma^2): eps-hat = sigma x / (1 + sigma^2), so the loss is
    E (z - sigma^2 z / (1 + sigma^2))^2 = 1 / (1 + sigma^2)^2."""
    scales = NoiseScales([3.0, 1.0, 0.2])
    model = ScoreFunction(lambda x, t: -x / (1 + VE(0.2, 3.0).sigma(t)[:, None] ** 2), scales.sde)
    x0, draws = torch.zeros(3 * 40000, 1, dtype=F64), torch.Generator().manual_seed(0)
    loss = scales.objective(stratified=True)(model, x0, generator=draws)
    want = sum((1 + s**2) ** -2 for s in scales) / 3
    assert loss.mean().item() == pytest.approx(want, abs=5 * loss.std().item() / 120000**0.5)


def linear_moments(sampler, model):
    """Exact variance of a sampler's linear output, from unit inputs."""
    count = 0

    def counted():
        nonlocal count
        count += 1
        return torch.zeros(1, 1, dtype=F64)

    sampler(model, torch.zeros(1, 1, dtype=F64), noise=counted, progress=False)
    units = torch.eye(count + 1, dtype=F64)
    draws = iter(units[:, 1:].unsqueeze(-1).unbind(1))
    out = sampler(model, units[:, :1].contiguous(), noise=lambda: next(draws), progress=False)
    return (out[0] ** 2).item(), (out[1:] ** 2).sum().item()


@pytest.mark.parametrize("name", ["own", "vp", "edm"])
def test_a_model_trained_on_any_diffusion_is_sampled_on_the_ladder(name):
    """On data N(0, s^2) the variance of x / alpha obeys v <- (1 - r / (1 + (s / sigma)^2))^2 v +
    2 r sigma^2, level by level; a start that is no draw but x = 1 tells the pull apart."""
    scales, s, r, each = NoiseScales.uniform(6.0, 0.3, 5), 0.7, 0.15, 4
    sde = {"own": scales.sde, "vp": VP(), "edm": EDM()}[name]
    sampler = scales.sampler(steps_each=each, step_ratio=r, denoise=False)
    of_start, of_noise = linear_moments(sampler, GaussianMixture([[0.0]], s**2, sde))
    kept, variance = 1.0, 0.0
    for sigma in scales:
        pull = r * sigma**2 / (s**2 + sigma**2)
        for _ in range(each):
            kept, variance = (1 - pull) ** 2 * kept, (1 - pull) ** 2 * variance + 2 * r * sigma**2
    ends = scales.times(sde)[[0, -1]]
    first, last = sde.alpha(ends).tolist()
    assert of_noise / last**2 == pytest.approx(variance, rel=1e-10)
    assert of_start * (first / last) ** 2 == pytest.approx(kept, rel=1e-10)
    # And the last step is x + sigma_n^2 score, in the coordinates of x / alpha.
    denoised, _ = linear_moments(
        scales.sampler(steps_each=each, step_ratio=r), GaussianMixture([[0.0]], s**2, sde)
    )
    shrunk = (s**2 / (s**2 + scales.sigma_min**2)) ** 2
    assert denoised * first**2 == pytest.approx(shrunk * kept, rel=1e-10)


def test_step_sizes_of_ncsn_are_converted():
    scales = NoiseScales.geometric(50.0, 0.01, 232)
    sampler = scales.sampler(steps_each=5, step_lr=6.2e-6)
    assert sampler.step_ratio == pytest.approx(0.062, rel=1e-12)
    assert (sampler.steps, sampler.steps_each, sampler.denoise) == (232, 5, True)
    assert scales.sampler(denoise=False).steps == 231
    assert scales.sampler(step_ratio=0.3).step_ratio == 0.3
    chosen = NoiseScales.geometric(5.0, 0.1, 8).sampler(data_std=0.0)
    assert chosen.step_ratio is None
    direct = samplers.choose_step_ratio(np.geomspace(5, 0.1, 8), 0.0, 5)
    assert chosen.chosen_ratio(VE(0.1, 5.0)) == pytest.approx(direct, rel=1e-6)
    with pytest.raises(ValueError, match="step_ratio and step_lr are one size"):
        scales.sampler(step_ratio=0.1, step_lr=1e-5)
    with pytest.raises(ValueError, match="step_lr=0"):
        scales.sampler(step_lr=0.0)


def test_a_grid_of_rungs_has_as_many_times_as_levels():
    scales = NoiseScales([4.0, 2.0, 1.0])
    grid = NoiseScalesGrid(scales)
    assert torch.equal(grid.times(VP(), 3), scales.times(VP()))
    with pytest.raises(ValueError, match=r"3 noise scales have no grid of 4 times"):
        grid.times(VP(), 4)
    heun = samplers.create("heun", steps=3, grid=grid)  # any sampler takes it
    assert torch.equal(heun.times(EDM()), torch.tensor([4.0, 2.0, 1.0], dtype=F64))


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0], r"shape \(1,\); accepted: \(n,\)"),
        ([[2.0, 1.0]], r"shape \(1, 2\)"),
        (3.0, r"shape \(\)"),
        ([1.0, 2.0], r"must decrease.*try sigmas.flip\(0\)"),
        ([1.0, 1.0], "must decrease"),
        ([1.0, 0.0], "greater than 0"),
        ([1.0, -2.0], "greater than 0"),
        ([float("inf"), 1.0], "finite"),
        ([float("nan"), 1.0], "finite"),
    ],
)
def test_what_is_no_ladder_is_refused(sigmas, message):
    with pytest.raises(ValueError, match=message):
        NoiseScales(sigmas)


def test_wrong_arguments_are_refused():
    for build in (NoiseScales.geometric, NoiseScales.uniform):
        with pytest.raises(ValueError, match=r"sigma_max=0.1 must exceed sigma_min=1"):
            build(0.1, 1.0, 5)
        with pytest.raises(ValueError, match="n=1 must be an integer of at least 2"):
            build(1.0, 0.1, 1)
    with pytest.raises(ValueError, match="n=1 must be"):
        NoiseScales.from_sde(VP(), 1)
    with pytest.raises(ValueError, match="steps_each=0"):
        NoiseScales([2.0, 1.0]).sampler(steps_each=0)
    with pytest.raises(ValueError, match="weighting"):
        NoiseScales([2.0, 1.0]).objective(weighting="none")


@pytest.mark.parametrize("sde", [VE(0.01, 50.0), EDM(), VP()], ids=str)
def test_a_ladder_that_starts_below_the_range_starts_with_its_own_noise(sde):
    """x / alpha ~ N(0, 1 + sigma_1^2): the noisy data of that scale, for data of unit variance."""
    scales = NoiseScales.geometric(5.0, 0.1, 6)
    sampler = scales.sampler(steps_each=1, step_ratio=1e-12, denoise=False)
    model = GaussianMixture([[0.0]], 1.0, sde)
    run = sampler(
        model,
        (1, 1),
        noise=lambda: torch.ones(1, 1, dtype=torch.float64),
        trajectory=True,
        progress=False,
    )
    first = scales.times(sde)[0]
    assert run.times[0].item() == pytest.approx(first.item())
    assert (run.states[0] / sde.alpha(first)).item() == pytest.approx(26**0.5, rel=1e-4)
