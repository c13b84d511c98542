"""Posterior-predictive checks: what was seen among what is simulated again."""

from __future__ import annotations

import pytest
import torch

from sde_score.evaluation import predictive


def test_statistics_far_out_have_small_p_values():
    simulated = torch.linspace(0, 1, 99, dtype=torch.float64)[:, None].expand(99, 3)
    seen = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    found = predictive(seen, simulated)
    assert found.names == ("y1", "y2", "y3")
    assert found.p_values.tolist() == pytest.approx([1, 0.02, 0.02])
    assert found.quantiles()[:, 0].tolist() == pytest.approx([0.05, 0.5, 0.95])
    mean = predictive(seen, simulated, lambda y: y.mean(1, keepdim=True), ("mean",))
    assert (mean.names, mean.seen.tolist()) == (("mean",), [0.5])


def test_what_does_not_fit_is_refused():
    seen, simulated = torch.zeros(3), torch.zeros(5, 3)
    for wrong, says in (
        ((seen[:2], simulated), "simulated"),
        ((simulated, simulated), "seen"),
        ((seen, simulated, lambda y: y.sum()), "statistics"),
        ((seen, simulated / 0), "NaN"),
        ((seen, simulated, None, ("a",)), "names"),
    ):
        with pytest.raises(ValueError, match=says):
            predictive(*wrong)
