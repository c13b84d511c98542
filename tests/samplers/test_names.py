"""Names of samplers: texts that make them again, other people's names, budgets, users' samplers."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import sde_score
from sde_score import samplers
from sde_score._core.registry import parse_spec
from sde_score.models import GaussianMixture
from sde_score.samplers import METHODS, SAMPLERS, Grid, Multistep, Sampler
from sde_score.samplers.published import ALIASES
from sde_score.sdes import EDM, VE, VP

CHANGED = {
    "dpmpp-2m": "dpmpp-2m(steps=20, eta=0.5)",
    "heun": "heun(steps=35, grid='log_snr', churn=3.0)",
    "ode": "ode(steps=5, rtol=0.001)",
    "pc": "pc(steps=7, denoise=False, corrector='langevin(steps=2)')",
    "mcmc": "mcmc(steps=7, kernel='hmc', warmup=3)",
}


def gaussian(sde=None):
    return GaussianMixture([[1.0, 0.0]], 0.3, sde or VP())


@pytest.mark.parametrize("name", samplers.available())
def test_the_text_of_a_named_sampler_makes_it_again(name):
    for spec in (name, CHANGED.get(name, f"{name}(steps=7)")):
        sampler = samplers.create(spec)
        assert SAMPLERS.text_of(sampler) == str(sampler) == repr(sampler)
        assert samplers.create(str(sampler)) == sampler
        assert parse_spec(str(sampler))[0] == sampler.name == name
    assert str(samplers.create(CHANGED.get(name, f"{name}(steps=7)"))) == (
        CHANGED.get(name) or f"{name}(steps=7)" if not sampler.adaptive else str(sampler)
    )


def test_the_name_stays_with_other_fields_and_is_shown():
    sampler = replace(samplers.create("dpm++ 2M", steps=20), eta=0.5)
    assert str(sampler) == "dpmpp-2m(steps=20, eta=0.5)"
    assert sampler.text("steps") == "dpmpp-2m(eta=0.5)"
    assert str(samplers.create("restart", inner=sampler, steps=9)) == (
        "restart(steps=9, inner='dpmpp-2m(steps=20, eta=0.5)')"
    )
    assert str(Multistep(order=2)) == "multistep(steps=20, order=2)"
    assert str(Multistep(name="mine")) == "mine(steps=20)"
    assert SAMPLERS.text_of(Multistep(name="mine")) == "multistep(steps=20)"


def test_the_bar_has_the_name(monkeypatch):
    shown = []

    class Bar:
        def __init__(self, **given) -> None:
            shown.append(given["desc"])

        __enter__ = __exit__ = update = lambda self, *_: self

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    samplers.create("dpmpp-2m(steps=3, eta=0.5)")(gaussian(), (2, 2), seed=0)
    assert shown == ["dpmpp-2m(eta=0.5)"]


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_names_of_others_lead_to_the_method(alias, name):
    for spelling in (alias, alias.upper(), alias.replace("-", " ")):
        assert samplers.create(spelling) == samplers.create(name)
        assert samplers.create(spelling).name == name


def test_no_alias_is_the_name_of_another():
    assert not set(ALIASES) & set(METHODS)
    assert len(ALIASES) == sum(len(method.aliases) for method in METHODS.values())


@pytest.mark.parametrize("alias", ["euler", "euler-a"])
@pytest.mark.parametrize("sde", [VE(0.05, 9.0), EDM(0.05, 9.0)], ids=["ve", "edm"])
def test_euler_is_the_step_in_sigma_that_others_take(alias, sde):
    """Euler in sigma down to sigma_down, and noise back up; without noise all the way."""
    model, steps = gaussian(sde), 5
    sampler = samplers.create(alias, steps=steps)
    draws = torch.randn(steps, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    left = iter(draws)
    start = 9.0 * next(left)
    found = sampler(model, start, noise=lambda: next(left), progress=False)
    times, x, left = sampler.times(sde), start, iter(draws[1:])
    for t, s in pairwise(times):
        here, there = sde.sigma(t), sde.sigma(s)
        up = (there * (1 - (there / here) ** 2).sqrt()) if alias == "euler-a" else 0 * there
        down = (there**2 - up**2).sqrt()
        x = x + (down - here) * (x - model.denoise(x, t)) / here
        x = x + up * next(left) if alias == "euler-a" else x
    torch.testing.assert_close(found, model.denoise(x, times[-1]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("dimm", "ddim"), ("ddmi", "ddim"), ("huen", "heun"), ("unipcc", "unipc"), ("eulr", "ddim")],
)
def test_a_misspelled_name_is_found(typed, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        samplers.create(typed)


@pytest.mark.parametrize("typed", ["dpmpp-4m", "dpm-4s", "seeds-4", "nonsense", "lmss-karras"])
def test_another_method_is_not_suggested(typed):
    with pytest.raises(ValueError, match="unknown sampler") as refused:
        samplers.create(typed)
    assert "did you mean" not in str(refused.value)


# --- budgets


@pytest.mark.parametrize("name", [n for n in METHODS if not samplers.create(n).adaptive])
@pytest.mark.parametrize("nfe", [23, 30])
def test_a_budget_buys_the_most_steps_that_cost_no_more(name, nfe):
    sampler = samplers.create(name, nfe=nfe)
    assert sampler == samplers.create(f"{name}(nfe={nfe})") == samplers.create(name).within(nfe)
    assert sampler.run(gaussian(), (2, 2), seed=0, progress=False).nfe <= nfe or name == "parallel"
    if name != "parallel":  # whose cost is that of the model
        more = replace(sampler, steps=sampler.steps + 1)
        assert more.run(gaussian(), (2, 2), seed=0, progress=False).nfe > nfe


def test_the_sde_counts_where_it_decides_the_cost():
    """On a range of noise that holds no stretch, nothing is walked again: it is refused."""
    assert samplers.create("restart", nfe=60, model=EDM()).steps > 1
    with pytest.raises(ValueError, match="must lie within"):
        samplers.create("restart", nfe=60, model=EDM(0.3, 9.0))


def test_a_grid_of_given_times_has_its_steps():
    times = samplers.Times(at=(1.0, 0.5, 0.2))
    assert samplers.create("ddim", grid=times, nfe=10).steps == 3
    with pytest.raises(ValueError, match="nfe=2 is too small"):
        samplers.create("ddim", grid=times, nfe=2)


# --- samplers of users


@dataclass(frozen=True)
class Halving(Sampler):
    """Goes where the denoised mean is, half of the way."""

    share: float = 0.5

    def iterate(self, problem, x):
        for k, t in enumerate(problem.times[:-1]):
            x = torch.lerp(x, problem.denoise(x, t), self.share)
            yield problem.times[k + 1].item(), x


class Needy(Halving):
    """Cannot be made by its name alone."""

    def __init__(self, must) -> None:
        super().__init__()


def test_a_sampler_of_a_user_is_listed_and_has_a_text_and_a_budget(register_for_test):
    register_for_test(SAMPLERS, "halving", Halving)
    register_for_test(SAMPLERS, "needy", Needy)
    sampler = samplers.create("halving", share=0.25, nfe=12)
    assert str(sampler) == "halving(steps=12, share=0.25)"
    assert str(Halving()) == "halving(steps=100)"
    found = samplers.describe("halving")
    assert (found.name, found.nfe_per_step, found.noise) == ("halving", "1", "drawn")
    assert (found.family, found.paper, found.first_tier) == ("", "", False)
    assert samplers.describe("needy").order == ""
    again = samplers.sample(gaussian(), "halving", (2,), 3, progress=False)
    assert again.shape == (3, 2)


def test_the_first_tier_is_about_nine_and_marked():
    assert 7 <= len(samplers.FIRST_TIER) <= 10
    marked = [name for name in samplers.available() if samplers.describe(name).first_tier]
    assert tuple(marked) == samplers.FIRST_TIER


# --- starts


@dataclass(frozen=True)
class Low(Grid):
    """Starts at t = 0.4."""

    def place(self, sde, u, end):
        return 0.4 + u * (end - 0.4)

    def times(self, sde, count):
        return self.place(sde, torch.linspace(0, 1, count, dtype=torch.float64), sde.t_min)


def test_a_start_below_t_max_has_the_spread_of_the_marginal():
    sde, ones = VE(0.01, 9.0), torch.ones(4, 2, dtype=torch.float64)
    sampler = samplers.create("ddim", grid=Low(), steps=3)
    for sigma_data in (1.0, 0.3):
        model = gaussian(sde)
        model.sigma_data = sigma_data
        run = sampler(model, (4, 2), noise=lambda: ones, trajectory=True, progress=False)
        spread = (sigma_data**2 + sde.sigma(0.4) ** 2) ** 0.5
        torch.testing.assert_close(run.states[0], spread * ones)
    assert samplers.create("ddim").start_spread(sde) == sde.prior_std


# --- the house


FLOORS = {
    "tuning": 0, "published": 1, "composite": 2, "langevin": 3, "fixed_step": 4, "adaptive": 4,
    "base": 5, "grids": 6, "noise": 6, "problem": 6, "budget": 6, "start": 6, "batched": 1,
}  # fmt: skip


def test_no_room_of_samplers_knows_a_room_above_it():
    folder, wrong = Path(sde_score.__file__).parent / "samplers", []
    for path in folder.rglob("*.py"):
        here = path.relative_to(folder).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            parts = (module or "").split(".")
            if here == "__init__" or parts[:2] != ["sde_score", "samplers"]:
                continue
            there = parts[2] if len(parts) > 2 else "__init__"
            if there != here and FLOORS.get(there, -1) <= FLOORS[here]:
                wrong.append(f"{path.relative_to(folder)} imports {module}")
    assert wrong == []
