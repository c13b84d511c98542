"""Kept results are those of the code and the settings at hand, or they are measured anew."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace

import pytest
import torch

from sde_score.evaluation import provenance as module
from sde_score.evaluation.benchmarks import run as runs
from sde_score.evaluation.benchmarks.plan import Entry, plan
from sde_score.evaluation.benchmarks.reference_flow import FlowEnds
from sde_score.evaluation.benchmarks.run import Bench, run_benchmark
from sde_score.evaluation.benchmarks.targets import exact_target
from sde_score.evaluation.features.classifier import _fingerprint
from sde_score.evaluation.journal import Journal
from sde_score.evaluation.provenance import package_digest, provenance
from sde_score.models import GaussianMixture
from sde_score.samplers import create
from sde_score.sdes import EDM

OWN = """
from dataclasses import dataclass

from sde_score.samplers.fixed_step.one_step import DDIM

FACTOR = 1.0

def helper(x):
    return FACTOR * x

class Base(DDIM):
    def scaled(self, x):
        return helper(x)

@dataclass(frozen=True)
class Mine(Base):
    extra: float = 0.5

    def start_spread(self, sde, sigma_data):
        # a comment
        return self.scaled(super().start_spread(sde, sigma_data))
"""

EDITS = {
    "default": ("extra: float = 0.5", "extra: float = 0.25"),
    "method": ("return self.scaled(", "return 2 * self.scaled("),
    "base class": ("return helper(x)", "return -helper(x)"),
    "function it calls": ("FACTOR * x", "FACTOR + x"),
    "number it uses": ("FACTOR = 1.0", "FACTOR = 1.5"),
}


@pytest.fixture
def own(monkeypatch):
    """The sampler of a user's module with this source, as after an edit and a new start."""

    def load(source: str = OWN):
        found = types.ModuleType("my_module")
        monkeypatch.setitem(sys.modules, "my_module", found)
        exec(source, vars(found))
        return found.Mine

    return load


def test_equal_things_have_one_digest(own):
    assert provenance(create("ddim", steps=5)) == provenance(create("ddim(steps=5, eta=0.0)"))
    assert provenance(own()()) == provenance(own()())
    assert provenance(own()()) == provenance(own(OWN.replace("# a comment", "# another"))())
    assert provenance(torch.ones(2), {"a": [1, None]}) == provenance(
        torch.ones(2), {"a": [1, None]}
    )


def test_other_arguments_have_another(own):
    things = [create("ddim", steps=5), create("ddim", steps=6), create("heun", steps=5), own()()]
    things += [own()(extra=1.0), torch.ones(2), torch.ones(2).double(), torch.ones(2, 1), (1,), [1]]
    assert len({provenance(thing) for thing in things}) == len(things)


@pytest.mark.parametrize("edit", EDITS)
def test_edited_code_has_another(own, edit):
    before = provenance(own()(extra=3.0))
    old, new = EDITS[edit]
    assert old in OWN
    assert provenance(own(OWN.replace(old, new))(extra=3.0)) != before


def test_what_a_function_holds_counts():
    def scaled(factor):
        return lambda x: factor * x

    assert provenance(scaled(2.0)) == provenance(scaled(2.0))
    assert provenance(scaled(2.0)) != provenance(scaled(3.0))


def test_networks_count_by_weights_and_code():
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert provenance(first) == provenance(first)
    assert provenance(first) != provenance(second)


def test_what_holds_itself_has_a_digest():
    own = {}
    own["own"] = own
    assert provenance(own) == provenance(own)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(runs, "_REFERENCE", 64)
    monkeypatch.setattr(runs, "_REPEATS", 2)
    target = exact_target("one", lambda sde: GaussianMixture([[0.0, 0.0]], 0.3, sde), EDM(0.01, 9))
    target = replace(target, flow=lambda x, condition: x, log_prob=None)
    return Bench(target, 8, FlowEnds(target))


def measured(bench, sampler, path) -> int:
    """How many rows are measured now."""
    before = bench.target.model.nfe
    run_benchmark(bench, plan(EDM(), [sampler]), journal=Journal(path), progress=False)
    return bench.target.model.nfe - before


def test_an_edited_sampler_is_measured_anew(bench, own, tmp_path):
    path = tmp_path / "benchmark.jsonl"
    assert measured(bench, own()(steps=3), path) == 3
    assert measured(bench, own()(steps=3), path) == 0
    for old, new in EDITS.values():
        assert measured(bench, own(OWN.replace(old, new))(steps=3), path) == 3
    assert measured(bench, own()(steps=3), path) == 0


def test_another_version_of_the_package_is_measured_anew(bench, tmp_path, monkeypatch):
    path = tmp_path / "benchmark.jsonl"
    measured(bench, create("ddim", steps=3), path)
    lines = len(path.read_text().splitlines())
    for place in (module, runs):
        monkeypatch.setattr(place, "package_digest", lambda: "another" * 3)
    assert measured(bench, create("ddim", steps=3), path) == 3
    assert len(path.read_text().splitlines()) == 2 * lines  # the floors as well
    keys = [json.loads(line)[0] for line in path.read_text().splitlines()]
    assert len(set(keys)) == len(keys)


def test_an_entry_of_a_function_counts_by_its_code(bench):
    def entry(draw):
        return Entry("x", "none", "x", False, draw)

    assert entry(lambda *_: 1).digest == entry(lambda *_: 1).digest
    assert entry(lambda *_: 1).digest != entry(lambda *_: 2).digest
    assert replace(entry(lambda *_: 1), made_of="library 2").digest != entry(lambda *_: 1).digest


def test_the_flow_of_another_version_is_found_anew(bench, tmp_path, monkeypatch):
    ends = FlowEnds(bench.target, tmp_path)(0, 3)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(module, "package_digest", lambda: "another")
    assert torch.equal(FlowEnds(bench.target, tmp_path)(0, 3), ends)
    assert sorted(tmp_path.iterdir()) != [file]


def test_a_classifier_of_another_version_is_trained_anew(monkeypatch):
    from sde_score.evaluation.features import classifier

    arguments = torch.zeros(3, 2), torch.zeros(3).long(), 2, 5, 0
    before = _fingerprint(*arguments)
    assert _fingerprint(*arguments) == before
    monkeypatch.setattr(classifier, "package_digest", lambda: "another")
    assert _fingerprint(*arguments) != before


def test_the_package_is_read_once():
    assert package_digest() is package_digest()
    assert len(package_digest()) == 64
