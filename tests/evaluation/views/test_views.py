"""Each view samples within its budget, the costs are counted, and nothing is measured twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from sde_score import likelihood, samplers
from sde_score.data import Scaling
from sde_score.evaluation import (
    VIEWS,
    Comparison,
    DistanceEstimator,
    Journal,
    View,
    ViewedModel,
    compare_views,
)
from sde_score.evaluation.views.compare import plan_views
from sde_score.models import GaussianMixture
from sde_score.sdes import VE, VP

FIXED = [name for name, view in VIEWS.items() if not view.adaptive]
BUDGETS = (1, 2, 3, 5, 9, 10, 33)


def mixture(sde=None, kind=GaussianMixture):
    means, variances = [[-1.0, 0.5], [1.0, -0.5]], [[0.2, 0.05], [0.05, 0.2]]
    return kind(means, torch.tensor(variances), sde or VP(), [0.4, 0.6])


def draws(count, seed):
    """Data of the mixture."""
    generator = torch.Generator().manual_seed(seed)
    return mixture().sample(count, generator=generator).float()


@pytest.fixture(scope="module")
def estimator():
    return DistanceEstimator(draws(400, 1), draws(100, 2), 60, ["energy"], repeats=4)


@pytest.mark.parametrize("sde", [VP(), VE(sigma_max=10.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("name", FIXED)
def test_a_view_spends_its_budget_and_no_more(name, sde):
    """The sampler costs at most the budget, and one more step would cost more."""
    model, view = mixture(sde), VIEWS[name]
    for budget in BUDGETS:
        sampler = view.sampler_within(budget, sde)
        if sampler is None:
            assert replace(view.sampler, steps=1).run(model, (2, 2), progress=False).nfe > budget
            continue
        assert sampler.run(model, (2, 2), progress=False).nfe <= budget
        more = replace(sampler, steps=sampler.steps + 1)
        assert more.run(model, (2, 2), progress=False).nfe > budget


def test_a_tolerance_decides_the_cost_of_an_adaptive_view():
    view = VIEWS["ode"]
    assert view.adaptive
    assert view.sampler_within(1) == view.sampler_within(1000)


@pytest.mark.parametrize("name", [name for name, view in VIEWS.items() if view.likelihood])
@pytest.mark.parametrize("dequantized", [False, True])
def test_every_likelihood_can_be_made(name, dequantized):
    spec = VIEWS[name].likelihood_at(20, VP(), dequantized)
    made = likelihood.create(spec)
    assert ("dequantization='uniform'" in spec) is dequantized
    assert getattr(made, "layers", 20) == 20


def test_one_layer_is_no_chain():
    assert VIEWS["ancestral"].likelihood_at(1, VP(), False) is None
    assert VIEWS["heun"].likelihood_at(1, VP(), False) is not None


@pytest.mark.parametrize("sde", [VP(), VE(sigma_max=10.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_the_chain_that_samples_is_the_chain_that_bounds(name, sde):
    """The layers of the ELBO are the times at which the sampler asks the model."""
    sampler = VIEWS[name].sampler_within(7, sde)
    chain = likelihood.create(VIEWS[name].likelihood_at(7, sde, False))
    grid = samplers.GRIDS.create(chain.grid)
    assert grid.end == sde.sampling_t_min
    assert sampler.times(sde).tolist() == grid.times(sde, chain.layers).tolist()


def test_rows_are_measured_once_and_agree_with_the_parts(estimator):
    """Each row is what one gets by sampling and measuring by hand."""
    model = mixture()
    viewed = ViewedModel(model, estimator)
    found = compare_views(viewed, views=["ddim", "heun"], nfes=[4, 3], progress=False)
    assert [(row.view, row.nfe) for row in found.rows] == [
        ("ddim", 3),
        ("ddim", 4),
        ("heun", 3),
    ]  # fmt: skip  (4 evaluations buy no more of Heun than 3)
    spec = "ddim(steps=4, grid='log_snr')"
    by_hand = samplers.sample(model, spec, (2,), 60, seed=0, progress=False)
    assert found.row("ddim", spec).distances == estimator(by_hand.float())
    assert found.floors == estimator.floors
    assert (found.names, found.count, found.size, found.held_out) == (("energy",), 60, 30, 100)
    assert all(row.seconds > 0 for row in found.rows)
    assert Comparison.from_record(json.loads(json.dumps(found.record()))) == found


def test_batches_do_not_change_the_cost(estimator):
    rows = [
        compare_views(
            ViewedModel(mixture(), estimator, batch_size=size),
            views=["pc"],
            nfes=[6],
            progress=False,
        ).rows[0]
        for size in (60, 25)
    ]
    assert [row.nfe for row in rows] == [6, 6]
    assert rows[0].distances[0].value == pytest.approx(rows[1].distances[0].value, abs=1e-6)


def test_known_rows_are_not_measured_again(estimator, tmp_path):
    path, model = tmp_path / "rows.jsonl", mixture()
    viewed = ViewedModel(model, estimator)

    def compare(nfes, identity="one"):
        return compare_views(
            viewed, views=["ddim"], nfes=nfes, journal=Journal(path), identity=identity,
            progress=False,
        )  # fmt: skip

    first = compare([3])
    before = model.nfe
    again = compare([3, 5])
    assert model.nfe - before == 5  # the row of 3 evaluations was known
    assert again.rows[0] == first.rows[0]
    before = model.nfe
    assert compare([5]) == again  # earlier rows of the same settings stand beside
    assert model.nfe == before
    assert len(compare([3], identity="another").rows) == 1
    assert model.nfe == before + 3
    assert len(path.read_text().splitlines()) == 3


def test_rows_of_another_version_are_measured_anew(estimator, tmp_path):
    path, model = tmp_path / "rows.jsonl", mixture()
    viewed = ViewedModel(model, estimator)
    want = compare_views(
        viewed, views=["ddim"], nfes=[3], journal=Journal(path), progress=False
    ).rows[0]
    key, row = json.loads(path.read_text())
    for other in ({**row, "more": 1}, {"view": "ddim"}, [1], None, {**row, "distances": 3}):
        path.write_text(json.dumps([key, other]) + "\n")
        before = model.nfe
        found = compare_views(
            viewed, views=["ddim"], nfes=[3], journal=Journal(path), progress=False
        )
        assert model.nfe == before + 3
        assert [r.distances for r in found.rows] == [want.distances]
        assert Journal(path).find(key, lambda row: row["distances"]) == row["distances"]


def test_each_likelihood_is_weighed_once(estimator):
    asked = []

    def weigh(spec):
        asked.append(spec)
        return likelihood.BitsPerDim(torch.full((8,), float(len(asked))), nfe=1)

    views = ["reverse-sde", "ancestral", "ddim", "heun"]
    viewed, journal = ViewedModel(mixture(), estimator, weigh), Journal()
    found = compare_views(viewed, views=views, nfes=[3, 5], journal=journal, progress=False)
    assert len(asked) == len(set(asked)) == 4  # bound, flow, and the chains of 3 and 5 layers
    layers = {likelihood.create(spec).layers for spec in asked if spec.startswith("elbo")}
    assert layers == {3, 5}
    for row in found.rows:
        assert found.bits_of(row) == found.bits[row.likelihood]
    two = [found.bits_of(row) for row in found.rows if row.view in ("ancestral", "ddim")]
    assert two[:2] == two[2:]
    assert compare_views(viewed, views=views, nfes=[5], journal=journal, progress=False) == found
    assert len(asked) == 4


def test_samples_are_delivered_before_they_are_measured(estimator):
    viewed = ViewedModel(mixture(), estimator, deliver=torch.round)
    found = compare_views(viewed, views=["ddim"], nfes=[5], progress=False)
    spec = found.rows[0].sampler
    drawn = samplers.sample(mixture(), spec, (2,), 60, progress=False)
    assert found.rows[0].distances == estimator(drawn.float().round())


def test_views_of_an_exact_score_reach_the_floor_and_bound_the_likelihood():
    """With the exact score every view samples the data, and no bound beats the flow's density."""
    model, raw = mixture(), draws(100, 3)
    estimator = DistanceEstimator(draws(400, 1), draws(100, 2), 80, ["energy"], repeats=20)

    def weigh(spec):
        return likelihood.bits_per_dim(model, raw, Scaling(), spec)

    viewed = ViewedModel(model, estimator, weigh)
    found = compare_views(viewed, views=[*FIXED[1:], "ode"], nfes=[150], progress=False)
    (floor,) = found.floors
    for row in found.rows:
        (found_at,) = row.distances
        error = math.hypot(found_at.standard_error, floor.standard_error)
        assert abs(found_at.value - floor.value) < 4 * error, row.sampler
    exact = -float(model.log_prob(raw.double()).mean()) / (2 * math.log(2))
    by = {row.view: found.bits_of(row).value for row in found.rows if row.likelihood}
    for view in ("heun", "reverse-sde"):
        assert abs(by[view].value - exact) < 3 * by[view].standard_error
    assert 0 < by["ancestral"].value - exact < 0.5


def test_samples_that_diverge_name_their_view(estimator):
    class Broken(GaussianMixture):
        def score(self, x, t, condition=None):
            return super().score(x, t, condition) * math.nan

    model = mixture(kind=Broken)
    with pytest.raises(ValueError, match=r"60 of 60 samples are not finite.*'reverse-sde'"):
        compare_views(
            ViewedModel(model, estimator), views=["reverse-sde"], nfes=[3], progress=False
        )


@pytest.mark.parametrize(
    ("views", "nfes", "says"),
    [
        (["hean"], [5], "views='hean': unknown sampler 'hean'; did you mean 'heun'"),
        ([type("Unnamed", (type(VIEWS["ddim"].sampler),), {})()], [5], "register its class"),
        ([], [5], "views="),
        (["ddim"], [], "nfes is empty"),
        (["ddim"], [5, 0], "nfe=0"),
    ],
)
def test_mistakes_are_named(views, nfes, says):
    with pytest.raises(ValueError, match=says):
        plan_views(views, nfes)


def test_other_samplers_stand_beside_the_views(estimator):
    """By text within the budgets, as an object or with steps as they are, and never a view twice;
    their rows come last and have no likelihood."""
    theirs = samplers.create("heun", steps=3, grid="uniform")
    views = ["dpmpp-2m", theirs, "ddim(steps=4)", "heun", "dpmpp-2m"]
    found = compare_views(
        ViewedModel(mixture(), estimator), views=views, nfes=[5, 9], progress=False
    )
    assert [(row.view, row.nfe, row.likelihood) for row in found.rows] == [
        ("heun", 5, "flow"), ("heun", 9, "flow"), ("dpmpp-2m", 5, None), ("dpmpp-2m", 9, None),
        ("heun(steps=3, grid='uniform')", 5, None), ("ddim(steps=4)", 4, None),
    ]  # fmt: skip


def test_a_budget_too_small_for_a_view_adds_no_row():
    assert [cell.view for cell in plan_views(["annealed-langevin", "pc", "ddim"], [1])] == ["ddim"]


def test_a_view_is_one_line():
    view = View("mine", "two corrections", samplers.create("pc(corrector='langevin(steps=2)')"))
    assert view.sampler_within(12).steps == 4
    assert view.sampler_within(2) is None
    assert view.likelihood_at(12, VP(), True) is None
