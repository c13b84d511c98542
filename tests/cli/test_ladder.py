"""`sde-score data ladder`: the design of the library, printed, and flags that work."""

from __future__ import annotations

import re

import pytest

from sde_score import data, objectives, samplers, sdes
from sde_score.cli import main
from sde_score.discrete import design


def test_the_design_is_printed_with_its_reasons(capsys):
    found = design(data.load("digits").tensor())
    assert main(["data", "ladder", "digits"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(str(found))
    flags = dict(re.findall(r'--(\w+) "(.*?)"(?: |$)', printed, re.MULTILINE))
    sde = sdes.create(flags["sde"])
    sampler = samplers.create(flags["sampler"])
    times = sampler.times(sde)
    assert sde.sigma(times).tolist() == pytest.approx(list(found.scales), rel=1e-3)
    assert sampler.steps_each == found.steps_each
    assert sampler.step_ratio == pytest.approx(found.step_ratio, rel=1e-3)
    drawn = objectives.create(flags["objective"]).draw(sde, data.load("digits").tensor(500), None)[
        0
    ]
    assert set(sde.sigma(drawn).tolist()) <= set(sde.sigma(sde.discrete_times(22)).tolist())


def test_the_design_for_programs(record):
    found = design(data.load("digits").tensor())
    printed = record("data", "ladder", "digits")
    assert printed == {"name": "digits", **found.numbers()}


def test_few_dimensions_take_the_chi_distribution(record, refusal):
    assert "radius='chi'" in refusal("data", "ladder", "ring")
    found = record("data", "ladder", "ring", "--radius", "chi", "--sigma-min", "0.05")
    assert found["sigma_min"] == 0.05
    assert found["ratio"] < 3.1
