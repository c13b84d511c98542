"""Wrong SDEs, coefficients and models: every sampler ends, with a word about what is wrong."""

from __future__ import annotations

import inspect

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.samplers import SAMPLERS
from sde_score.samplers.adaptive import engine
from sde_score.sdes import VP


class Standing(VP):
    """An inverse that is the middle, whatever is asked."""

    def _time_of_log_snr(self, log_snr):
        return torch.full_like(log_snr, 0.5)


class Backward(VP):
    """An inverse that runs the other way."""

    def _time_of_log_snr(self, log_snr):
        return 1 - super()._time_of_log_snr(log_snr)


class Nowhere(VP):
    """An inverse that is no number."""

    def _time_of_log_snr(self, log_snr):
        return torch.full_like(log_snr, torch.nan)


class Everywhere:
    """A model that says one number."""

    def __init__(self, number):
        self.sde, self.number, self.nfe = VP(), number, 0

    def score(self, x, t, condition=None):
        return torch.full_like(x, self.number)

    denoise = noise = velocity = score


def made(name):
    steps = {"steps": 5} if "steps" in inspect.signature(SAMPLERS[name]).parameters else {}
    return samplers.create(name, **steps)


@pytest.mark.parametrize("sde", [Standing, Backward, Nowhere], ids=lambda sde: sde.__name__)
def test_a_wrong_inverse_is_named_or_not_asked(sde):
    model, said = GaussianMixture([[0.0, 0.0]], 1.0, sde()), {}
    for name in samplers.available():
        try:
            assert torch.isfinite(made(name)(model, (2, 2), seed=0, progress=False)).all(), name
        except (ValueError, RuntimeError) as error:
            said[name] = str(error)
    words = ("time_of_log_snr", "inverse", f"the times of {sde.__name__}")
    assert {k: text for k, text in said.items() if not any(word in text for word in words)} == {}
    assert len(said) > 30


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["ode", "dpm-adaptive", "adaptive-sde"])
def test_adaptive_steps_give_up_on_what_is_no_number(name, number):
    with pytest.raises(RuntimeError, match="the solver gave up"):
        samplers.create(name)(Everywhere(number), (2, 2), seed=0, progress=False)


def test_a_tolerance_below_rounding_gives_up(monkeypatch):
    monkeypatch.setattr(engine, "_MOST_ROUNDS", 50)
    model = GaussianMixture([[0.0, 0.0], [3.0, 1.0]], 0.1, VP())
    with pytest.raises(RuntimeError, match=r"gave up .*are rtol and atol above its rounding"):
        samplers.create("ode", rtol=1e-15, atol=1e-15)(model, (2, 2), seed=0, progress=False)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, 1e30])
def test_parallel_sweeps_end_on_what_never_settles(number):
    model = Everywhere(number)
    samplers.create("parallel", steps=9, window=4)(model, (2, 2), seed=0, progress=False)


def test_sweeps_that_make_nothing_final_are_an_error(monkeypatch):
    still = lambda self, swept, points, units: torch.zeros(2, dtype=torch.int64)  # noqa: E731
    sampler = samplers.create("parallel", steps=9, window=4)
    monkeypatch.setattr(type(sampler), "_stride", still)
    with pytest.raises(RuntimeError, match=r"8 sweeps of parallel\(.*have made 0 of 8 steps final"):
        sampler(Everywhere(0.0), (2, 2), seed=0, progress=False)
