"""Energies and objectives with a memory train like everything else: same bits, whatever the cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sde_score import models, objectives
from sde_score.training import Trainer, TrainingError, load_config, load_run, prepare

ENERGY = {"data": "ring(n=60)", "conditional": False, "backbone": "mlp(width=8, depth=1)"}
REMEMBERING = [
    "denoising-control(bins=4)",
    "denoising-adaptive(features=4)",
    "denoising-resampled(bins=2)",
    "persistent(buffer_size=32, k=2, restart=0.2)",
    "noise-contrastive",
]
EACH = [*REMEMBERING, "contrastive-divergence(k=2)"]


class Once(torch.autograd.Function):
    """What it is given, with a derivative that has none."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():  # a graph is made of the derivative
            raise RuntimeError("no double backward")
        return gradient


@pytest.fixture(scope="module")
def done():
    """Folders of the runs that were not cut, by objective."""
    return {}


@pytest.fixture
def whole(run_to, tmp_path_factory, done):
    """`whole(objective)` is a run of 12 steps that was not cut, trained once."""

    def run(objective):
        if objective not in done:
            done[objective] = tmp_path_factory.mktemp("whole")
            run_to(done[objective], **ENERGY, model="energy", objective=objective)
        return done[objective]

    return run


def tensors(out, step, name="objective"):
    return load_file(out / "checkpoints" / f"step-{step}" / f"{name}.safetensors")


@pytest.mark.parametrize("objective", EACH)
def test_a_run_that_was_cut_has_the_bits_of_one_that_was_not(
    run_to, whole, tensor_bytes, tmp_path, objective
):
    given = {**ENERGY, "model": "energy", "objective": objective}
    want = tensor_bytes(whole(objective), 12)
    run_to(tmp_path / "cut", steps=7, **given)
    torch.manual_seed(5)  # whatever the global generator holds must not matter
    run_to(tmp_path / "cut", **given)
    assert tensor_bytes(tmp_path / "cut", 12) == want
    assert isinstance(load_run(tmp_path / "cut").model, models.EnergyModel)


SPECS = {
    "explicit": "explicit(target='mixture')",
    "target-score": "target-score(target='mixture', information=1.0)",
    "generalized": "generalized(weight='parabola(low=-9, high=9)')",
    "persistent": "persistent(buffer_size=32, k=2)",
}
ALONE = [  # others learn from a teacher
    name
    for name, made in objectives.OBJECTIVES.items()
    if not getattr(made, "needs_teacher", False)
]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (name, model)
        for name in ALONE
        for model in ("auto", "energy")
        if model == "auto" or objectives.create(SPECS.get(name, name)).needs == "score"
    ],
)
def test_every_objective_trains_scores_and_energies_on_the_plane(run_to, tmp_path, name, model):
    given = {**ENERGY, "data": "target(name='mixture', n=60)", "objective": SPECS.get(name, name)}
    run = run_to(tmp_path, **given, model=model, steps=2)
    needs = objectives.create(run.config.objective).needs
    kind = "flow-map" if needs == "flow map" else "score"
    assert run.config.model == ("energy" if "energy" in (model, needs) else kind)
    assert isinstance(run.model, models.FlowMap) == (kind == "flow-map")
    assert isinstance(run.model, models.EnergyModel) == (run.config.model == "energy")


IMAGES = [name for name in ALONE if name not in ("explicit", "target-score")]


@pytest.mark.parametrize("name", IMAGES)
def test_every_objective_trains_on_images(run_to, tmp_path, name):
    small = {"backbone": "unet(base=4, multipliers=(1,), blocks=1, attention=())", "batch_size": 2}
    pixels = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    given = {"objective": SPECS.get(name, name), "steps": 1, "conditional": False, **small}
    run = run_to(tmp_path, data=pixels, **given)
    assert run.event_shape == (1, 4, 4)


@pytest.mark.parametrize("objective", REMEMBERING)
def test_what_an_objective_remembers_is_in_the_checkpoint_and_moves(whole, objective):
    early, late = tensors(whole(objective), 8), tensors(whole(objective), 12)
    assert early.keys() == late.keys()
    assert any(not torch.equal(early[name], late[name]) for name in early)
    assert not any("objective" in name for name in tensors(whole(objective), 12, "ema"))


def test_what_a_step_left_is_taken_over_at_its_end(whole):
    kept = tensors(whole("denoising-control(bins=4)"), 12)
    assert kept["moments"][0].sum() > 90  # of 12 steps of 8 examples, a little forgotten
    assert not kept["pending"].any()


def test_the_learned_constant_is_optimized_and_averaged(run_to, tmp_path):
    """It moves at every step, and its average, which lags behind, is kept beside it."""
    run_to(tmp_path, **ENERGY, objective="noise-contrastive", ema=0.9)
    early, late = tensors(tmp_path, 8), tensors(tmp_path, 12)
    (name,) = [n for n in late if n.endswith("log_z") and not n.startswith("average.")]
    (average,) = [n for n in late if n.startswith("average.")]
    moved = late[name] - early[name]
    assert moved.abs() > 1e-3
    assert 0 < (late[name] - late[average]) / moved < 1


@pytest.mark.parametrize("objective", EACH)
def test_micro_batches_change_nothing_but_rounding(run_to, tmp_path, objective):
    given = {**ENERGY, "model": "energy", "objective": objective, "clip": 0.0, "steps": 2}
    one = run_to(tmp_path / "one", **given)
    four = run_to(tmp_path / "four", accumulate=4, **given)
    for a, b in zip(one.model.parameters(), four.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("head", models.HEADS)
def test_every_head_learns(run_to, tmp_path, head):
    """Backbones start at zero; an energy that is the square of one must not stay there."""
    run = run_to(tmp_path, **ENERGY, model="energy", head=head, steps=8, objective="hutchinson")
    fresh = Trainer(prepare(run.config, tmp_path / "fresh"), progress=False).model
    moved = [
        float((a.cpu() - b).abs().max().detach())
        for a, b in zip(run.model.parameters(), fresh.parameters(), strict=True)
    ]
    assert sum(change > 1e-4 for change in moved) > len(moved) / 2


@pytest.mark.parametrize(
    ("kernel", "factor", "says"),
    [("ula", 3e3, "have run apart"), ("mala", 1e6, "every step was rejected")],
)
def test_contrastive_training_that_runs_away_stops_and_keeps_the_good_checkpoint(
    run_to, tensor_bytes, tmp_path, kernel, factor, says
):
    """Nothing is infinite here: the energies are finite and senseless, and chains that may reject
    do not move in them."""
    given = {**ENERGY, "objective": f"contrastive-divergence(k=1, kernel={kernel!r})"}
    run_to(tmp_path, steps=8, **given)
    good = tensor_bytes(tmp_path, 8)
    trainer = Trainer(prepare(replace(load_config(tmp_path / "config.yaml"), steps=12), tmp_path))
    trainer.progress = False
    with torch.no_grad():
        trainer.model.backbone.last.weight.mul_(factor)
    with pytest.raises(TrainingError, match=rf"{says} .*step 8.*energy penalty"):
        trainer.run()
    assert tensor_bytes(tmp_path, 8) == good
    assert load_run(tmp_path).step == 8


@pytest.mark.parametrize("sign", [1, -1])
def test_losses_may_go_as_far_as_the_limit_per_entry(run_to, tmp_path, sign):
    """100 nats for each of the two entries of a point, over the mean of a window."""
    given = {**ENERGY, "objective": "contrastive-divergence(k=1)"}
    run_to(tmp_path, steps=4, **given)
    trainer = Trainer(prepare(replace(load_config(tmp_path / "config.yaml"), steps=12), tmp_path))
    for loss in (190.0, 209.0):
        trainer.meter.add(torch.tensor(sign * loss), torch.tensor(1.0))
    trainer.check.losses(trainer.meter, trainer.step, None)
    trainer.meter.add(torch.tensor(sign * 202.0), torch.tensor(1.0))
    with pytest.raises(TrainingError, match="is beyond 200"):
        trainer.check.losses(trainer.meter, trainer.step, None)


def test_runs_say_what_they_know_and_who_samples_them(run_to, tmp_path):
    noisy = run_to(tmp_path / "a", steps=1)
    clean = run_to(tmp_path / "b", steps=1, **ENERGY, objective="hutchinson")
    energy = run_to(tmp_path / "c", steps=1, **ENERGY, objective="contrastive-divergence(k=1)")
    assert (noisy.all_noise_levels, noisy.sampler) == (True, "auto(steps=20)")
    assert (clean.all_noise_levels, clean.config.prediction) == (False, "scaled_score")
    assert "mala-score" in clean.sampler
    assert "kernel='mala'" in energy.sampler


def test_models_that_cannot_be_differentiated_twice_are_refused_before_training(
    run_to, tmp_path, monkeypatch
):
    """A compiled network has one derivative; this stands in for it, and takes no seconds."""

    def compiled(module):
        plain = module.forward
        monkeypatch.setattr(module, "forward", lambda *given: Once.apply(plain(*given)))

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    given = {**ENERGY, "objective": "hutchinson", "compile": True}
    with pytest.raises(ValueError, match=r"torch\.compile must be off"):
        run_to(tmp_path, **given)
    assert not list(tmp_path.glob("checkpoints/*"))
