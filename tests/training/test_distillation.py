"""Distillation: a run is start and teacher of a flow map, whose training is a training."""

from dataclasses import replace

import pytest
import torch

from sde_score import data
from sde_score.models import EmpiricalDistribution, GaussianFlowMap
from sde_score.objectives import Consistency, MeanFlow
from sde_score.sdes import EDM
from sde_score.training import CheckpointError, distill, distillation, load_run, train

SMALL = {"data": "target(name='gaussian', n=60)", "backbone": "mlp(width=8, depth=1)"}
SMALL |= {"conditional": False, "sde": "edm", "steps": 2}
QUICK = {"steps": 2, "warmup": 0, "progress": False}


@pytest.fixture
def teacher(run_to, tmp_path):
    return run_to(tmp_path / "teacher", **SMALL)


class Own(torch.nn.Module):
    """A network of the user's, which no text names."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x, noise_level, condition=None):
        told = torch.ones_like(x)  # of a flow map, the end
        if condition is None:
            told = torch.nn.functional.dropout(told, 0.5, self.training)
        return self.layer(x) * told


def first_loss(run):
    return run.metrics[-1]["loss"]


def test_a_flow_map_starts_as_its_teacher_and_learns_its_velocity_or_that_of_the_data(
    teacher, tmp_path
):
    """On the diagonal nothing is left to learn of the averaged weights, and only of these."""
    losses = {}
    for name, from_data in (("model", False), ("data", True)):
        losses[name] = first_loss(
            distill(teacher, tmp_path / name, "semigroup(share=0.0)", from_data=from_data,
                    **{**QUICK, "steps": 1})
        )  # fmt: skip
    assert losses["model"] < 1e-12
    assert losses["data"] > 0.1
    raw = load_run(teacher.path, "raw").model.state_dict()
    assert not torch.equal(raw["backbone.last.weight"],
                           teacher.model.state_dict()["backbone.last.weight"])  # fmt: skip


def test_it_resumes_to_the_same_bits_while_the_run_of_its_teacher_goes_on(
    teacher, run_to, tensor_bytes, tmp_path
):
    learned = {**QUICK, "objective": "scm(warmup=3)", "learning_rate": 0.01}
    distill(teacher.path, tmp_path / "whole", **{**learned, "steps": 4})
    distill(teacher.path, tmp_path / "cut", **learned)
    run_to(teacher.path, **{**SMALL, "steps": 4})
    done = distill(teacher.path, tmp_path / "cut", **{**learned, "steps": 4})
    assert tensor_bytes(tmp_path / "cut", 4) == tensor_bytes(tmp_path / "whole", 4)
    assert done.config.teacher == str(teacher.path / "checkpoints" / "step-2")
    kept = ("sde", "backbone", "prediction", "sigma_data", "data", "held_out", "batch_size")
    assert all(getattr(done.config, n) == getattr(teacher.config, n) for n in kept)
    other = distill(teacher.path, tmp_path / "other", **learned)
    assert other.config.teacher == str(teacher.path / "checkpoints" / "step-4")
    earlier = load_run(teacher.path, step=2)
    with pytest.raises(ValueError, match=r"teacher is '.*step-2', was '.*step-4'"):
        distill(earlier, tmp_path / "other", **learned)


def test_an_objective_that_changes_on_the_way_is_told_the_step_also_after_a_stop(teacher, tmp_path):
    still = {**QUICK, "learning_rate": 1e-12}
    losses = {}
    for spec in (
        "ect(gap=0.25, halve_every=1)",
        "ect(gap=0.5, halve_every=0)",
        "ect(gap=0.25, halve_every=0)",
    ):
        for steps in (1, 2):
            run = distill(teacher.path, tmp_path / spec, spec, **{**still, "steps": steps})
        losses[spec] = [line["loss"] for line in run.metrics if "loss" in line]
    staged, wide, near = losses.values()
    assert staged[0] == wide[0] != near[0]
    assert staged[1] == pytest.approx(near[1], rel=1e-6)
    assert near[1] != pytest.approx(wide[1], rel=1e-3)


def test_a_pace_is_a_part_of_the_training_and_stays_when_it_goes_on(teacher, tmp_path):
    for spec, pace in (("ect", "halve_every=2"), ("scm", "warmup=1"), ("ect(halve_every=9)", "=9")):
        for steps in (16, 17):
            config = distillation(teacher, spec, out=tmp_path / "a", steps=steps)
            assert pace in str(config.objective)
    distill(teacher, tmp_path / "a", "ect(gap=0.25)", **QUICK)
    assert load_run(tmp_path / "a").model.to_data_alone
    longer = distillation(teacher, "ect(gap=0.25)", out=tmp_path / "a", steps=160)
    assert "halve_every=1" in str(longer.objective)


def test_data_and_networks_in_memory_are_taken_from_the_run(config, tmp_path):
    network = Own()
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    plain = replace(config, backbone="auto", conditional=False, steps=1)
    run = train(plain, tmp_path / "t", model=network, data=points, progress=False)
    run.model.train()  # what teaches is without dropout all the same
    student = distill(run, tmp_path / "s", "semigroup(share=0.0)", **{**QUICK, "steps": 1})
    assert (student.config.teacher, student.config.data) == ("<ScoreModel>", run.config.data)
    assert first_loss(student) == pytest.approx(0.0, abs=1e-12)
    told = run.dataset().raw(torch.arange(40))
    again = load_run(tmp_path / "t", model=network, data=data.from_tensor(told))
    resumed = distill(again, tmp_path / "s", "semigroup(share=0.0)", **QUICK)
    assert resumed.step == 2


def test_refusals(teacher, run_to, tmp_path):
    with pytest.raises(ValueError, match=r"objective='denoising' trains no flow map; accepted"):
        distill(teacher, tmp_path / "a", "denoising", **QUICK)
    with pytest.raises(ValueError, match=r"the configuration does not take learning; accepted"):
        distill(teacher, tmp_path / "a", learning=1, **QUICK)
    with pytest.raises(ValueError, match=r"objective=.* takes no teacher: leave it out"):
        run_to(tmp_path / "a", **SMALL, teacher=str(teacher.path))
    with pytest.raises(CheckpointError, match=r"teacher='.*nowhere' is no run directory"):
        run_to(tmp_path / "a", **SMALL, objective="ect", teacher=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"excess=True knows the best model for denoising"):
        distill(teacher, tmp_path / "a", excess=True, **QUICK)
    energy = run_to(tmp_path / "energy", **SMALL, model="energy")
    with pytest.raises(ValueError, match=r"is an energy, which no flow map starts from"):
        distill(energy, tmp_path / "a", **QUICK)
    x0, student = torch.randn(4, 2), GaussianFlowMap([0.0, 0.0], 1.0, EDM())
    other = EmpiricalDistribution(x0, "vp")
    with pytest.raises(ValueError, match=r"teacher has the sde VP.*take that of the teacher"):
        Consistency(teacher=other)(student, x0)
    other = GaussianFlowMap([0.0, 0.0], 1.0, EDM(), 0.5)
    with pytest.raises(ValueError, match=r"flow map with sigma_data=0\.5, and the model has 1"):
        MeanFlow(teacher=other)(student, x0)
