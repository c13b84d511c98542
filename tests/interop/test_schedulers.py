"""Schedulers of diffusers as our samplers, and our samplers in their pipelines."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from sde_score import samplers
from sde_score.data import DataError
from sde_score.evaluation import (
    BENCHMARK_TARGETS,
    DistanceEstimator,
    ViewedModel,
    benchmark,
    compare_views,
)
from sde_score.interop import SchedulerSampler, as_diffusers_scheduler
from sde_score.interop.scheduler_sampler import chain_of
from sde_score.models import GaussianMixture, ScoreModel
from sde_score.sdes import EDM, VE, VP, Tabulated, chain

# Schedulers meet what the newest NumPy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CONFIG = {"_class_name": "DDPMScheduler", "num_train_timesteps": 100, "clip_sample": False}
KINDS = [
    "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep",
    "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2Discrete",
    "KDPM2AncestralDiscrete", "LMSDiscrete", "PNDM", "UniPCMultistep",
]  # fmt: skip


def model(sde):
    return GaussianMixture([[1.0, -0.5]], 0.09, sde)


@pytest.mark.parametrize("sde", [VP(), VE(), EDM(), chain("linear", 100)])
def test_chains_have_the_noise_levels_of_the_diffusion(sde):
    betas = torch.tensor(chain_of(sde), dtype=torch.float64)
    found = Tabulated.from_betas(betas)
    times = samplers.GRIDS.create("native").times(sde, 1000)
    ends = [sde.t_max, sde.t_min if isinstance(sde, Tabulated) else float(times[-1])]
    wanted = sde.log_snr(torch.tensor(ends, dtype=torch.float64)).tolist()
    assert [found.log_snrs[-1], found.log_snrs[0]] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("place", range(len(KINDS)), ids=KINDS)
def test_every_scheduler_finds_the_distribution(place):
    """Each on one of three diffusions in turn; those of second order meet them all."""
    sde = (VP(), EDM(), chain("cosine", 100))[place % 3]
    sampler = SchedulerSampler(steps=30, scheduler=KINDS[place])
    x = sampler(model(sde), (400, 2), seed=0)
    assert (x.mean(0) - torch.tensor([1.0, -0.5])).abs().max() < 0.06
    assert (x.std(0) - 0.3).abs().max() < 0.06
    torch.testing.assert_close(x[:3], sampler(model(sde), (3, 2), seed=0), rtol=0, atol=1e-5)


def test_ddim_is_ours_at_the_same_times():
    pytest.importorskip("diffusers")
    target, start = model(VP()), torch.randn(4, 2)
    theirs = SchedulerSampler(steps=20, scheduler="DDIM")
    found = theirs(target, start)
    grid = samplers.Times(tuple(theirs.times(target.sde).tolist()))
    ours = samplers.create("ddim", steps=20, grid=grid)(target, start)
    torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-4)
    assert theirs.count_nfe() == 20
    assert theirs.within(15).steps == 15
    assert SchedulerSampler(scheduler="HeunDiscrete").within(15).steps == 8


def test_it_stands_beside_ours_in_a_benchmark(monkeypatch):
    """By name, at the budget, and as an object, with the steps that it has."""
    diffusers = pytest.importorskip("diffusers")
    for name, value in {"_REFERENCE": 64, "_REPEATS": 2}.items():
        monkeypatch.setattr(f"sde_score.evaluation.benchmarks.run.{name}", value)
    given = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    chosen = ["diffusers(scheduler='DDPM')", SchedulerSampler(steps=15, scheduler=given)]
    assert samplers.create(str(chosen[1])) == chosen[1]
    assert "diffusers" not in samplers.available()
    found = benchmark(
        BENCHMARK_TARGETS.create("ring"), chosen, nfes=(10,), count=16, progress=False
    )
    noisy, exact = found.rows
    assert (noisy.sampler, noisy.nfe, noisy.rms) == (chosen[0], 10, None)  # it draws noise
    assert exact.nfe == 15
    assert exact.rms < 0.4


def test_it_stands_beside_the_views_of_a_model():
    pytest.importorskip("diffusers")
    data = torch.randn(240, 2) * 0.3 + torch.tensor([1.0, -0.5])
    estimator = DistanceEstimator(data[:200], data[200:], 20, ["energy"], repeats=2)
    chosen = ["diffusers(scheduler='UniPCMultistep')", SchedulerSampler(steps=12), "ddim"]
    viewed = ViewedModel(model(VP()), estimator)
    found = compare_views(viewed, views=chosen, nfes=[8], progress=False)
    assert [(row.view, row.nfe) for row in found.rows] == [
        ("ddim", 8), (chosen[0], 8), ("diffusers(steps=12)", 12)
    ]  # fmt: skip
    for row in found.rows:
        assert row.distances[0].value < 0.1


def test_a_scheduler_that_is_given_keeps_its_configuration():
    diffusers = pytest.importorskip("diffusers")
    given = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True, beta_end=0.5)
    sampler = SchedulerSampler(steps=5, scheduler=given)
    assert dict(sampler.options)["use_karras_sigmas"] is True
    assert "beta_end" not in dict(sampler.options)
    assert sampler(model(VP()), (2, 2), seed=0).isfinite().all()


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="'FlowMatchEulerDiscrete' is not supported"):
        SchedulerSampler(scheduler="FlowMatchEulerDiscreteScheduler")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(DataError, match=r"pip install 'sde-score\[diffusers\]'"):
        SchedulerSampler()(model(VP()), (1, 2))
    with pytest.raises(ValueError, match="depend on what it finds"):
        as_diffusers_scheduler("ode", CONFIG)


class Net:
    """The exact noise of a Gaussian, as a network of diffusers."""

    def __init__(self, sde):
        self.exact = model(sde)

    def __call__(self, x, step):
        noise = self.exact.noise(x.flatten(1), (float(step) + 1) / 100).reshape(x.shape)
        return torch.cat([noise, noise], 1)  # a learned variance behind it


@pytest.mark.parametrize("name", ["ddim", "unipc", "heun", "ancestral", "dpmpp-2m-sde"])
def test_a_sampler_in_a_pipeline_is_the_sampler(name):
    made = as_diffusers_scheduler(name, SimpleNamespace(config=CONFIG))
    net, start = Net(made.sde), torch.randn(3, 2)

    def draw(generator):
        made.set_timesteps(6)
        x = start
        for step in made.timesteps:
            shown = made.scale_model_input(x, step)
            x = made.step(net(shown, step), step, x, generator=generator).prev_sample
        return x

    found = draw(torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    own = ScoreModel(lambda x, label: net(x, float(label[0]))[:, :2], made.sde, made.prediction)
    want = samplers.create(name, steps=6)(
        own, start, noise=lambda: torch.randn(3, 2, generator=generator)
    )
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(found, draw(torch.Generator().manual_seed(5)))


def test_a_pipeline_that_stops_midway_begins_anew():
    made = as_diffusers_scheduler("heun", CONFIG)
    made.set_timesteps(4)
    x = torch.randn(1, 2)
    (x,) = made.step(x, made.timesteps[0], x, return_dict=False)
    thread = made._walk.thread
    made.set_timesteps(4)
    assert not thread.is_alive()


def test_pipelines_of_diffusers_take_our_samplers():
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=100)
    pipe = diffusers.DDPMPipeline(net, as_diffusers_scheduler("unipc", scheduler))
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(batch_size=2, num_inference_steps=5, output_type="np").images
    assert drawn.shape == (2, 8, 8, 1)
