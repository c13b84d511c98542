"""Scores of the unfamiliar, and areas under the ROC curve with their errors."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from sde_score.evaluation import FAMILIARITY, auroc, familiarity
from sde_score.models import EnergyClassifier, GaussianMixture, ScoreFunction
from sde_score.sdes import VP

F64 = torch.float64
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
MODEL = EnergyClassifier(lambda x, t: 2 * x - t, 3, VP())


def test_every_score_is_its_formula_and_grows_with_familiarity():
    f = 2 * X - 0.4
    want = {
        "log-density": f.logsumexp(1),
        "max-softmax": (f / 3).softmax(1).max(1).values,
        "energy": 3 * (f / 3).logsumexp(1),
        "mass": -(2 * f.softmax(1)).norm(dim=1),
    }
    assert want.keys() == FAMILIARITY.keys()
    for by, value in want.items():
        torch.testing.assert_close(familiarity(MODEL, X, by, t=0.4, temperature=3.0), value)
    torch.testing.assert_close(familiarity(MODEL, X, "energy"), familiarity(MODEL, X))
    normal = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    near, far = torch.full((1, 2), 0.1), torch.full((1, 2), 3.0)
    for by in ("log-density", "mass"):
        assert float(familiarity(normal, near, by)) > float(familiarity(normal, far, by))


def by_pairs(inside, outside):
    """The definition: all pairs, and DeLong's covariance of the shares that each beats."""
    wins = (inside[:, None] > outside).double() + 0.5 * (inside[:, None] == outside).double()
    variance = wins.mean(1).var() / len(inside) + wins.mean(0).var() / len(outside)
    return float(wins.mean()), math.sqrt(float(variance))


@pytest.mark.parametrize(("n", "m", "ties"), [(40, 25, False), (30, 60, True), (2, 2, True)])
def test_the_area_is_the_share_of_pairs(n, m, ties):
    generator = torch.Generator().manual_seed(n)
    inside = torch.randn(n, generator=generator, dtype=F64) + 0.7
    outside = torch.randn(m, generator=generator, dtype=F64)
    if ties:
        inside, outside = inside.round(), outside.round()
    found = auroc(inside, outside)
    assert (found.value, found.standard_error) == pytest.approx(by_pairs(inside, outside))
    truth = torch.cat([torch.ones(n), torch.zeros(m)])
    assert found.value == pytest.approx(roc_auc_score(truth, torch.cat([inside, outside])))
    turned = auroc(outside, inside)
    assert turned.value == pytest.approx(1 - found.value)
    assert turned.standard_error == pytest.approx(found.standard_error)


def test_the_error_is_the_spread_over_sets():
    """600 pairs of sets: within 3 relative standard errors, sqrt(1 / 1200), and no bias."""
    generator = torch.Generator().manual_seed(0)
    drawn = [
        auroc(
            torch.randn(50, generator=generator) + 1.0,
            1.5 * torch.randn(30, generator=generator),
        )
        for _ in range(600)
    ]
    values = torch.tensor([each.value for each in drawn])
    mean_square = torch.tensor([each.standard_error**2 for each in drawn]).mean()
    assert abs(float(mean_square.sqrt() / values.std()) - 1) < 3 * math.sqrt(1 / 1200)
    exact = 0.5 * (1 + math.erf(1.0 / math.sqrt(2 * (1 + 1.5**2))))
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(600)


def test_infinities_are_scores_and_sets_apart_have_no_error():
    found = auroc(torch.tensor([1.0, math.inf]), torch.tensor([-math.inf, 0.0]))
    assert (found.value, found.standard_error) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: auroc(X[0], X[0, :1]), r"number of scores outside=1"),
        (lambda: auroc(torch.tensor([1.0, math.nan]), X[0]), r"inside has NaN"),
        (lambda: familiarity(MODEL, X, "likelihood"), r"by='likelihood'"),
        (lambda: familiarity(MODEL, X, "energy", temperature=0.0), r"temperature=0.0"),
        (
            lambda: familiarity(GaussianMixture([[0.0] * 3], 1.0, VP()), X, "max-softmax"),
            r"model is a GaussianMixture, which has no logits",
        ),
        (lambda: familiarity(ScoreFunction(lambda x, t: -x), X), r"score but no energy"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()
