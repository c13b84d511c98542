"""The table of flow maps: their ends are held against those of the very same starts."""

import importlib

from sde_score.evaluation import FlowEnds, exact_target
from sde_score.models import GaussianFlowMap, GaussianMixture
from sde_score.sdes import EDM

MEAN = [0.5, -0.3]


def test_an_exact_map_in_float32_has_no_error_at_any_steps(monkeypatch):
    script = importlib.import_module("flow_maps")
    monkeypatch.setattr(script, "STARTS", 16)
    target = exact_target("blob", lambda sde: GaussianMixture([MEAN], 0.5, sde), "edm")
    truth, model = FlowEnds(target, None)(0, 16), GaussianFlowMap(MEAN, 0.5, EDM()).float()
    for steps in (1, 4):
        row = script.error(target, model, script.FlowMapSteps(steps=steps), truth)
        assert row["rms"] < 0.01
    assert (
        script.error(target, target.model, script.samplers.create("ddim(steps=4)"), truth)["rms"]
        > 0.03
    )
    assert script._solver_row(target, "heun", 4, truth)["nfe"] == 3
