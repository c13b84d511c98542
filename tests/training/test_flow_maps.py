"""Runs of flow maps: what they are made of, from the data and from a trained run."""

import pytest
import torch

from sde_score.models import FlowMap, ScoreModel
from sde_score.nn import create
from sde_score.training import load_run

SMALL = {"data": "target(name='gaussian', n=60)", "backbone": "mlp(width=8, depth=1)", "steps": 2}
SMALL["conditional"] = False


def test_a_run_of_scores_becomes_a_flow_map_whose_diagonal_is_its_score(run_to, tmp_path):
    teacher = run_to(tmp_path / "score", **SMALL, sde="edm")
    start = {"init_from": str(tmp_path / "score"), "learning_rate": 1e-12}
    run_to(tmp_path / "map", **SMALL, sde="edm", objective="ect", **start)
    student = load_run(tmp_path / "map")
    assert student.config.model == "flow-map"
    assert isinstance(student.model, FlowMap)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(student.model.denoise(x, 2.0), teacher.model.denoise(x, 2.0))
    end = dict(student.model.named_parameters())["backbone.embedding.end.first.weight"]
    assert end.shape == (8, 40)


def test_a_flow_map_is_refused_where_a_score_was_asked_for(run_to, tmp_path):
    with pytest.raises(ValueError, match=r"needs a flow map: choose model=flow-map"):
        run_to(tmp_path, **SMALL, objective="mean-flow", model="score")
    whole = ScoreModel(create("mlp(width=8, depth=1)", (2,)), "vp")
    rest = {"data": SMALL["data"], "backbone": "auto", "conditional": False}
    with pytest.raises(ValueError, match=r"needs a flow map, and model has none"):
        run_to(tmp_path, **rest, objective="mean-flow", model=whole)


@pytest.mark.parametrize(("objective", "noise"), [("ect", ", renoise=True"), ("mean-flow", "")])
def test_a_flow_map_is_sampled_by_its_own_steps(run_to, tmp_path, objective, noise):
    run = run_to(tmp_path / "map", **SMALL, objective=objective)
    assert run.few_steps == (
        "flow-map(steps=1)", f"flow-map(steps=2{noise})", f"flow-map(steps=4{noise})"
    )  # fmt: skip
    assert run.sampler == run.few_steps[1]
    score = run_to(tmp_path / "score", **SMALL)
    assert score.few_steps == ()
    assert score.sampler == "auto(steps=20)"
