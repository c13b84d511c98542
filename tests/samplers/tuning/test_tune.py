"""Tuned samplers: better than all that raced on starts that decided nothing, files, refusals."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.random import ExampleStreams, example_seeds
from sde_score.samplers import SAMPLERS, NoiseRatios, ProbabilityFlowODE, create, tune
from sde_score.samplers.tuning import tune as module
from sde_score.samplers.tuning.candidates import named, neighbors
from sde_score.samplers.tuning.search import EndErrors
from sde_score.samplers.tuning.tune import starts_to_fit
from sde_score.sdes import EDM

MIXTURE = GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], 0.04, EDM(0.02, 10.0), weights=[0.4, 0.6])
CANDIDATES = ("ddim", "dpmpp-2m", "adams")
NUM, FRESH, NFE = 96, 64, 6
THREE_STEPS = create("ddim", steps=3, grid=NoiseRatios(ratios=(9.0, 1.0, 0.1)))
REFERENCE = ProbabilityFlowODE(rtol=1e-4, atol=1e-4)


def find(nfe=NFE, **arguments):
    settings = {"candidates": CANDIDATES, "num": NUM, "fresh": FRESH, "iterations": 8,
                "reference": REFERENCE, "progress": False, **arguments}  # fmt: skip
    return tune(MIXTURE, nfe, **settings)


@pytest.fixture(scope="module")
def tuned():
    return find()


@pytest.fixture(scope="module")
def fresh():
    """The starts that the errors are told of, made anew: seeds after the 12 + 6 that decided."""
    like = torch.empty(FRESH, 2, dtype=torch.float64)
    starts = ExampleStreams(example_seeds(0, FRESH, NUM + NUM // 2), like)()
    starts = starts * MIXTURE.sde.prior_std
    return starts, REFERENCE(MIXTURE, starts, progress=False)


def errors_of(sampler, fresh):
    starts, ends = fresh
    return EndErrors.of((sampler(MIXTURE, starts, progress=False) - ends).square().mean(1).sqrt())


def test_it_is_better_than_every_candidate_on_fresh_starts(tuned, fresh):
    assert tuned.errors.rms == pytest.approx(errors_of(tuned.sampler, fresh).rms, rel=1e-6)
    assert tuned.errors.median == pytest.approx(errors_of(tuned.sampler, fresh).median, rel=1e-6)
    for name in CANDIDATES:
        other = errors_of(create(name, nfe=NFE), fresh)
        assert tuned.errors.balanced < 0.3 * other.balanced, name
    assert tuned.nfe == tuned.sampler.count_nfe(MIXTURE) <= NFE


def test_the_better_ones_meet_more_starts(tuned):
    """All that race meet 16, twelve of them 64, and the last few the 48 that choose."""
    assert tuned.complete
    counts = [entry.starts for entry in tuned.race]
    assert {*counts} == {16, 64, NUM // 2}
    losses = [entry.errors.balanced for entry in tuned.race]
    assert losses == sorted(losses)
    dropped = max(e.errors.balanced for e in tuned.race if e.starts == 16)
    kept = min(e.errors.balanced for e in tuned.race if e.starts == 64)
    assert kept < dropped
    assert tuned.begun == tuned.race[0].begun != ""
    assert f"begun at {tuned.begun}" in tuned.race[0].text


def test_the_loss_is_the_geometric_mean_of_both_errors():
    errors = EndErrors.of(torch.tensor([1.0, 1.0, 7.0]))
    assert errors.balanced == pytest.approx(math.sqrt(math.sqrt(17.0)))
    assert EndErrors.of(torch.tensor([1.0, math.nan])).balanced == math.inf


def test_a_file_is_a_sampler(tuned, tmp_path, fresh):
    path = str(tmp_path / "deep" / "tuned.json")
    tuned.save(path)
    again = SAMPLERS.resolve(path, name="sampler")
    assert again == tuned.sampler
    torch.testing.assert_close(again.times(MIXTURE.sde), tuned.sampler.times(MIXTURE.sde))
    assert errors_of(again, fresh).rms == pytest.approx(tuned.errors.rms, rel=1e-6)
    with pytest.raises(ValueError, match=r"steps=7, 6 rows .* tune again"):
        create(path, steps=again.steps + 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sampler": ""}, "names no sampler"),
        ({"sampler": "other.json"}, "names no sampler"),
        ({"sampler": "nothing(steps=3)", "rows": []}, "unknown sampler 'nothing'"),
        ({"rows": [[0.5, 0.5]]}, "1 rows for 6 ratios"),
        ({"rows": [["x"]]}, "rows"),
        ({"ratios": [1.0, 2.0]}, "strictly decreasing"),
        ({"format": "x"}, "its format is not"),
    ],
)
def test_damaged_files_are_refused_by_name(change, says, tuned, tmp_path):
    path = tmp_path / "tuned.json"
    tuned.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=says) as refused:
        create(str(path))
    if "unknown" not in says:
        assert "tuned.json" in str(refused.value)
    with pytest.raises(OSError, match=r"none\.json"):
        create(str(tmp_path / "none.json"))


SMALL = {"num": 4, "fresh": 4, "iterations": 1, "nfe": 3}


def test_the_seed_decides_unless_the_time_runs_out():
    first, again, other = (find(candidates=["ddim"], seed=s, **SMALL) for s in (0, 0, 1))
    assert first.sampler == again.sampler
    assert first.errors == again.errors != other.errors
    cut = find(seconds=1e-9, **SMALL)
    assert not cut.complete
    assert cut.spec.startswith("ddim")
    assert len(cut.race) == 1
    assert math.isfinite(cut.errors.rms)


def test_most_of_the_time_is_left_to_the_fits(monkeypatch):
    """By a clock that is read once a second: eight samplers meet two starts, and fits follow."""
    clock = SimpleNamespace(monotonic=itertools.count(0.0).__next__)
    monkeypatch.setattr(module, "time", clock)
    found = find(candidates=CANDIDATES[:2], seconds=36.0, **{**SMALL, "num": 8})
    assert not found.complete
    assert sum(entry.starts == 2 for entry in found.race) == 8
    assert any(entry.begun for entry in found.race)


def test_the_best_of_the_brief_fits_is_fitted_to_the_end(monkeypatch):
    calls = []

    def fit(model, form, *starts, shares, **settings):
        calls.append((form, shares))
        return replace(form, rows=(*form.rows[:-1], (0.0, *form.rows[-1][1:-1])))

    monkeypatch.setattr(module, "fit_coefficients", fit)
    found = find(candidates=["ddim", "dpmpp-2m"], **SMALL)
    brief = [entry for entry in found.race if entry.begun]
    *tried, last = calls
    assert [shares for _, shares in calls] == [*((0.0,) for _ in tried), (0.0, 0.5)]
    assert len(tried) == 2
    assert last[0] == min(brief, key=lambda entry: entry.errors.balanced).sampler


def test_starts_for_a_fit():
    """Of a network by its numbers: 74 coefficients at 10 evaluations, 249 at 20."""
    network = torch.nn.Linear(1, 1)
    for model, nfe, shape, count in [
        (MIXTURE, 3, (2,), 512),
        (network, 10, (1, 8, 8), 64),
        (network, 20, (1, 8, 8), 124),
        (network, 10, (2,), 296),
        (network, 20, (2,), 512),
    ]:
        assert starts_to_fit(model, nfe, shape) == count


def test_neighbors_of_names_race_as_well(monkeypatch):
    """The only name is DDIM, whose error its neighbors halve on the same starts."""
    first = create("multistep", order=1)
    monkeypatch.setattr(module, "named", lambda: [first])
    monkeypatch.setattr(module, "_ROUNDS", 1)
    found = find(candidates=None, num=8, fresh=8, iterations=1)
    mine = [
        e
        for e in found.race
        if e.starts == 8 and e.sampler.text("grid") == "multistep(steps=6, order=1)"
    ]
    best = min(e.errors.balanced for e in found.race if e.starts == 8)
    assert best < 0.5 * min(e.errors.balanced for e in mine)
    assert found.sampler.text("grid") != first.text("grid")


@pytest.mark.parametrize("spec", ["adams", "dpmpp-2m", "heun", "ddim"])
def test_neighbors_differ_in_one_field_within_the_budget(spec):
    sampler = create(spec, nfe=9)
    found = neighbors(sampler, 9, MIXTURE)
    assert found
    for each in found:
        names = {f.name for f in fields(each) if f.compare}
        changed = {n for n in names if getattr(each, n) != getattr(sampler, n)} - {"steps"}
        assert len(changed) == 1, each
    for each in found[::7]:
        assert each.count_nfe(MIXTURE) <= 9


def test_all_deterministic_names_race():
    names = {sampler.name for sampler in named()}
    assert {"ddim", "heun", "adams", "unipc", "deis", "dpmpp-3s", "ipndm"} <= names
    not_so = {"ancestral", "ode", "pc", "mcmc", "dpmpp-2m-sde", "dpm-adaptive", "parallel"}
    assert not names & not_so


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"candidates": ["ancestral"]}, "candidates has ancestral.*draws noise"),
        ({"candidates": ["nothing"]}, "candidates='nothing'.*unknown sampler"),
        ({"candidates": [THREE_STEPS], "nfe": 2}, "nfe=2 is too small"),
        ({"seconds": 0.0}, "seconds=0"),
        ({"num": 3}, "num=3"),
    ],
)
def test_mistakes_are_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        find(**arguments)
