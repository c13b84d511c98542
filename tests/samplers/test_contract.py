"""What every sampler promises around its step: seeds, counts, trajectories, dtypes, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.random import ExampleStreams, example_seeds
from sde_score.samplers import Langevin, Multistep, PredictorCorrector
from sde_score.samplers.published import constructors
from sde_score.sdes import EDM, VE, VP

EVENT = (2, 3)
# Their own tests hold those whose steps are not those of a grid, one call of the model each.
OTHERS = ("ode", "adaptive-sde", "dpm-adaptive", "singlestep", "parallel", "restart", "mcmc")
LOOPS = [name for name in samplers.available() if name not in OTHERS]
# The chain at one time, with a kernel for models that have no energy and the start of the others.
CHAIN = "mcmc(kernel='mala-score(step_size=0.02)', start_std=9.0, warmup=3, denoise=True)"
FLOWS = [
    *LOOPS,
    "ddim(eta=0.7)",
    "pc(predictor='adams(final_order=1)')",
    "heun(churn=4.0)",
    "pc(corrector='langevin(rule=\"example\")')",
]
SPECS = [*FLOWS, CHAIN]


class Elementwise:
    """Data N(0.3, 0.25) entry by entry; condition shifts it. Nothing but multiply and add."""

    def __init__(self, sde) -> None:
        self.sde, self.nfe = sde, 0

    def _moments(self, x, t):
        alpha, sigma = fit(self.sde.alpha(t), x), fit(self.sde.sigma(t), x)
        return alpha, sigma, 0.25 * alpha**2 + sigma**2

    def score(self, x, t, condition=None):
        self.nfe += 1
        alpha, _, variance = self._moments(x, t)
        center = 0.3 if condition is None else condition.reshape(-1, *(1,) * (x.ndim - 1))
        return (alpha * center - x) * (1 / variance)

    def denoise(self, x, t, condition=None):
        alpha, sigma, _ = self._moments(x, t)
        return (x + sigma**2 * self.score(x, t, condition)) * (1 / alpha)

    def velocity(self, x, t, condition=None):
        share = -0.5 * fit(self.sde.diffusion(t), x) ** 2
        return fit(self.sde.drift_rate(t), x) * x + share * self.score(x, t, condition)

    def noise(self, x, t, condition=None):
        return -self._moments(x, t)[1] * self.score(x, t, condition)


def fit(scale, x):
    """A number, or one per example, to multiply x."""
    if scale.ndim == 0:
        return scale.item()
    return scale.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def model():
    return Elementwise(VE(0.05, 9.0))


def draw(spec, start, **given):
    return samplers.create(spec, steps=6)(model(), start, progress=False, **given)


@pytest.mark.parametrize("spec", SPECS)
def test_sample_i_depends_on_seed_and_i_alone(spec):
    whole = draw(spec, (64, *EVENT), seed=11)
    assert torch.equal(draw(spec, (1, *EVENT), seed=11), whole[:1])
    assert torch.equal(draw(spec, (7, *EVENT), seed=11), whole[:7])
    seeds = example_seeds(11, 64)
    assert torch.equal(draw(spec, (3, *EVENT), seed=[seeds[5], seeds[0], seeds[40]]),
                       whole[[5, 0, 40]])  # fmt: skip
    assert not torch.equal(draw(spec, (7, *EVENT), seed=12), whole[:7])
    assert len({tuple(row.flatten().tolist()) for row in whole}) == 64


def test_adaptive_steps_are_each_samples_own():
    """Alone, among 7 or among 64: the same sample to rounding, in the middle of the path too."""
    distribution = GaussianMixture([[-1.0, 0.4], [1.0, 0.2]], 0.05, VP())
    sampler = samplers.create("ode", steps=4)
    given = {"progress": False, "trajectory": True}
    whole = sampler(distribution, (64, 2), seed=11, **given).states
    for batch in (1, 7):
        part = sampler(distribution, (batch, 2), seed=11, **given).states
        torch.testing.assert_close(part, whole[:, :batch], rtol=0, atol=1e-12)


def test_an_adaptive_solver_lands_on_the_reported_points():
    """A path of four points holds those of a path of two, and each is on the exact flow."""
    distribution = GaussianMixture([[0.7]], 0.3, VP())
    given = {"progress": False, "trajectory": True, "seed": 0}
    tight = {"rtol": 1e-8, "atol": 1e-8, "denoise": False}
    paths = [
        samplers.create("ode", steps=n, **tight)(distribution, (3, 1), **given) for n in (2, 4)
    ]
    torch.testing.assert_close(paths[0].samples, paths[1].samples, rtol=0, atol=1e-6)
    times = paths[1].times
    spread = (0.3 * VP().alpha(times) ** 2 + VP().sigma(times) ** 2).sqrt()[:, None, None]
    center = 0.7 * VP().alpha(times)[:, None, None]
    code = ((paths[1].states - center) / spread)[:1].expand(5, 3, 1)
    torch.testing.assert_close(paths[1].states, center + spread * code, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", [*LOOPS, "mcmc"])
def test_mixtures_do_not_feel_the_batch_either(spec):
    distribution = GaussianMixture([[-1.0, 0.4], [1.0, 0.2]], 0.05, VP())
    sampler = samplers.create(spec, steps=12)
    whole = sampler(distribution, (64, 2), seed=1, progress=False)
    for batch in (1, 7):
        part = sampler(distribution, (batch, 2), seed=1, progress=False)
        torch.testing.assert_close(part, whole[:batch], rtol=1e-6, atol=1e-6)


def test_no_seed_draws_a_new_family_each_time():
    assert not torch.equal(draw("ddim", (4, 2)), draw("ddim", (4, 2)))


@pytest.mark.parametrize("spec", SPECS)
def test_a_given_start_equals_a_drawn_one_and_stays_untouched(spec):
    """The first draw of each stream, times prior_std, is the start; the rest are the steps'."""
    streams = ExampleStreams(example_seeds(5, 4), torch.empty(4, *EVENT))
    start = 9.0 * streams()
    before = start.clone()
    got = draw(spec, start, noise=streams)
    torch.testing.assert_close(got, draw(spec, (4, *EVENT), seed=5), rtol=1e-6, atol=1e-7)
    assert torch.equal(start, before)


def test_the_start_has_the_standard_deviation_of_the_prior(sde):
    ones = torch.ones(2, 3)
    run = samplers.create("ddim", steps=2)(
        Elementwise(sde), (2, 3), noise=lambda: ones, trajectory=True, progress=False
    )
    torch.testing.assert_close(run.states[0], sde.prior_std * ones)
    assert run.times[0].item() == sde.t_max


COUNTS = {
    "euler-maruyama": lambda n: (n, n),
    "reverse-diffusion": lambda n: (n, n),
    "ancestral": lambda n: (n, n),
    "ddim": lambda n: (n, n),
    **{name: lambda n: (n, n) for name in constructors(Multistep)},
    "midpoint": lambda n: (2 * n - 1, 2 * n),
    "dpm-3s": lambda n: (3 * n - 2, 3 * n),
    "rk4": lambda n: (4 * n - 3, 4 * n),
    "seeds-2": lambda n: (2 * n - 1, 2 * n),
    "pc(predictor='adams')": lambda n: (2 * n, 2 * n + 1),
    "heun": lambda n: (2 * n - 1, 2 * n),
    "pc": lambda n: (2 * n, 2 * n + 1),
    "pc(corrector='langevin(steps=3)')": lambda n: (4 * n, 4 * n + 3),
    "pc(corrector='none')": lambda n: (n, n),
    "annealed-langevin(steps_each=4)": lambda n: (4 * n + 1, 4 * (n + 1)),
    "mcmc(kernel='ula')": lambda n: (n + 1, n + 1),
    "mcmc(kernel='mala-score', warmup=7)": lambda n: (2 * (n + 6) + 2, 2 * (n + 7) + 1),
}


@pytest.mark.parametrize("spec", COUNTS)
@pytest.mark.parametrize("steps", [1, 5])
def test_evaluations_and_states_are_counted(spec, steps):
    for denoise, nfe in zip((True, False), COUNTS[spec](steps), strict=True):
        counting = model()
        sampler = samplers.create(spec, steps=steps, denoise=denoise)
        run = sampler(counting, (3, *EVENT), seed=0, trajectory=True, progress=False)
        assert run.nfe == counting.nfe == nfe
        assert run.states.shape == (steps + 1, 3, *EVENT)
        times = sampler.times(counting.sde)
        want = [*times.tolist(), 0.0] if denoise else times.tolist()
        assert run.times.tolist() == pytest.approx(want, abs=1e-12)
        assert run.times.dtype == torch.float64
        assert torch.equal(run.samples, run.states[-1])
        again = sampler(counting, (3, *EVENT), seed=0, trajectory=True, progress=False)
        assert again.nfe == nfe  # of this run, not since the model was made
        assert counting.nfe == 2 * nfe


@pytest.mark.parametrize("spec", [*FLOWS, "ode"])
def test_the_result_is_the_denoised_last_state(spec):
    sampler = samplers.suited(samplers.create(spec, steps=5), model())
    if isinstance(sampler, samplers.Multistep):  # its last step may be of a higher order
        sampler = replace(sampler, final_order=1)
    run = sampler(model(), (3, *EVENT), seed=0, trajectory=True, progress=False)
    last = sampler.times(model().sde)[-1]
    torch.testing.assert_close(run.samples, model().denoise(run.states[-2], last))
    assert bool((run.times[:-1].diff() < 0).all())
    assert run.times[-1] == 0
    assert run.times[-2] == last
    plain = sampler(model(), (3, *EVENT), seed=0, progress=False)
    assert torch.equal(plain, run.samples)


@pytest.mark.parametrize("spec", [*SPECS, "ode"])
def test_callbacks_see_each_step(spec):
    seen = []
    run = samplers.create(spec, steps=4)(
        model(), (2, *EVENT), seed=0, trajectory=True, progress=False,
        callback=lambda number, time, state: seen.append((number, time, state.clone())),
    )  # fmt: skip
    assert [number for number, _, _ in seen] == list(range(1, 5))
    assert [time for _, time, _ in seen] == run.times[1:].tolist()
    assert torch.equal(torch.stack([state for _, _, state in seen]), run.states[1:])


@pytest.mark.parametrize("spec", SPECS)
def test_the_condition_travels_unchanged_to_every_call(spec, recorder):
    condition = torch.tensor([3.0, -3.0])
    kept = recorder(model())
    samplers.create(spec, steps=3)(kept, (2, 2), seed=0, condition=condition, progress=False)
    assert kept.conditions
    assert all(seen is condition for seen in kept.conditions)


def test_condition_follows_the_samples_that_an_adaptive_solver_still_carries():
    """With two conditions each sample is that of its own alone, though one arrives first."""
    condition, start = torch.tensor([3.0, -30.0]), torch.tensor([[1.0], [2.0]]).double()
    sampler = samplers.create("ode", rtol=1e-9, atol=1e-4)
    whole = sampler(model(), start, condition=condition, progress=False)
    parts = [
        sampler(model(), start[i : i + 1], condition=condition[i : i + 1], progress=False)
        for i in range(2)
    ]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-12)


def test_each_example_has_its_own_condition():
    """From a prior centered at 0 the exact flow leaves mean c (1 - (v / (v + s^2))^1/2)."""
    condition = torch.tensor([3.0, -3.0])
    got = samplers.create("heun", steps=30)(
        model(), (2, 1500), seed=0, condition=condition, progress=False
    )
    truth = 3 * (1 - (0.25 / 81.25) ** 0.5)
    assert got.mean(1).tolist() == pytest.approx([truth, -truth], abs=0.05)


def test_no_graph_is_recorded():
    class Learned(Elementwise):
        weight = torch.ones((), requires_grad=True)

        def score(self, x, t, condition=None):
            return self.weight * super().score(x, t, condition)

    start = torch.ones(2, 2, requires_grad=True)
    for spec in [*SPECS, "ode"]:
        sampler = samplers.create(spec, steps=2)
        assert not sampler(Learned(VP()), start.detach(), seed=0, progress=False).requires_grad
        with torch.no_grad():  # nobody asks for a graph
            assert not sampler(Learned(VP()), start, seed=0, progress=False).requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_states_have_at_least_single_precision(given, kept):
    for spec in [*SPECS, "ode"]:
        assert draw(spec, torch.ones(2, 2, dtype=given), seed=0).dtype == kept


def test_a_drawn_start_has_the_precision_of_the_model():
    sampler = samplers.create("ddim", steps=2)
    distribution = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    assert sampler(distribution, (2, 2), progress=False).dtype == torch.float64
    assert sampler(distribution.float(), (2, 2), progress=False).dtype == torch.float32
    assert sampler(distribution.half(), (2, 2), progress=False).dtype == torch.float32
    assert sampler(model(), (2, 2), progress=False).dtype == torch.float32


def test_single_precision_loses_little():
    """Coefficients are float64: float32 states differ by rounding alone, over a hundred steps."""
    start = 9.0 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for spec in ("ddim", "heun", "euler-maruyama(eta=0)", "reverse-diffusion(eta=0)"):
        sampler = samplers.create(spec, steps=100)
        single = sampler(model(), start, progress=False)
        double = sampler(model(), start.double(), progress=False)
        torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("spec", [*SPECS, "pc(corrector='langevin(rule=\"batch\")')"])
@pytest.mark.parametrize("sde", [VP(), EDM()], ids=["VP", "EDM"])
def test_nothing_is_read_back_from_the_device(spec, sde):
    """On the meta device there are no values, so any look at one is an error."""

    class Blind:
        nfe = 0

        def score(self, x, t, condition=None):
            assert t.device.type == "meta"
            assert t.ndim == 0
            return -0.5 * x

        noise = denoise = velocity = score

    blind = Blind()
    blind.sde = sde
    start = torch.empty(4, 2, device="meta")
    got = samplers.create(spec, steps=4)(
        blind, start, noise=lambda: torch.empty(4, 2, device="meta"), progress=False
    )
    assert got.shape == (4, 2)
    with pytest.raises((RuntimeError, NotImplementedError)):
        got.sum().item()


def test_starts_may_be_strided(sde):
    start = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    for spec in [*LOOPS, CHAIN]:
        sampler = samplers.create(spec, steps=2)
        got = sampler(Elementwise(sde), start, seed=0, progress=False)
        want = sampler(Elementwise(sde), start.contiguous(), seed=0, progress=False)
        assert torch.equal(got, want)


def test_parts_may_be_objects():
    parts = PredictorCorrector(
        steps=6, predictor=samplers.Ancestral(), corrector=Langevin(snr=0.2, steps=2)
    )
    spec = "pc(predictor='ancestral', corrector='langevin(snr=0.2, steps=2)')"
    assert torch.equal(parts(model(), (3, 2), seed=4, progress=False), draw(spec, (3, 2), seed=4))


def test_churn_needs_noise_only_where_it_churns():
    """gamma = min(churn / steps, sqrt(2) - 1); levels outside the window are left alone."""
    sampler = samplers.create("heun", steps=6, churn=100.0, churn_min=0.5, churn_max=3.0)
    levels = sampler.times(EDM(0.05, 9.0))
    raised = sampler._raise(levels)
    inside = (levels >= 0.5) & (levels <= 3.0)
    torch.testing.assert_close(raised[inside], levels[inside] * 2**0.5)
    assert torch.equal(raised[~inside], levels[~inside])
    drawn = []
    ones = torch.ones(2, 2)
    sampler(Elementwise(EDM(0.05, 9.0)), 9 * ones, noise=lambda: drawn.append(1) or ones,
            progress=False)  # fmt: skip
    assert len(drawn) == int(inside[:-1].sum())
    everywhere = samplers.create("heun", steps=6, churn=1.2)._raise(levels)
    torch.testing.assert_close(everywhere[1:], 1.2 * levels[1:])
    assert everywhere[0] == levels[0]  # never beyond the noise of t_max
