"""The benchmark measures what it says, and measures nothing twice."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save

from sde_score import samplers
from sde_score.evaluation import (
    Bench,
    Benchmark,
    BenchmarkRow,
    Entry,
    FlowEnds,
    Interval,
    Journal,
    endpoint_error,
    exact_target,
    plan,
    run_benchmark,
)
from sde_score.evaluation.benchmarks import run as sampler_benchmark
from sde_score.evaluation.benchmarks.run import available
from sde_score.models import GaussianMixture
from sde_score.random import example_seeds, generator_from
from sde_score.samplers import DDIM
from sde_score.sdes import EDM

VARIANCE, LARGEST, SMALLEST = 0.3, 20.0, 0.01


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small sets to compare with: what is tested here is not how sharp a distance is."""
    monkeypatch.setattr(sampler_benchmark, "_REFERENCE", 64)
    monkeypatch.setattr(sampler_benchmark, "_REPEATS", 3)


@pytest.fixture
def target():
    def mixture(under):
        return GaussianMixture([[0.0, 0.0]], VARIANCE, under)

    shrinks = math.sqrt(VARIANCE / (VARIANCE + LARGEST**2))
    exact = exact_target("gaussian", mixture, EDM(SMALLEST, LARGEST), starts=16)
    return replace(exact, flow=lambda x, condition: shrinks * x)  # known, and not integrated


@pytest.fixture
def bench(target):
    return Bench(target, 16, FlowEnds(target))


def entry(draw, name="one", **changes):
    return replace(Entry(name, "none", name, False, draw, budget=5), **changes)


def listening(seen, answer=lambda target, start: target.model.denoise(start, LARGEST)):
    def draw(target, start, seeds, condition):
        seen.append(start.clone())
        return answer(target, start)

    return draw


# --- what is measured


@pytest.mark.parametrize("steps", [3, 8])
def test_error_of_ddim_on_a_gaussian_is_its_closed_form(target, bench, steps):
    """A step from s to r s maps y to (r + (1 - r) v / (v + s^2)) y, the end to v / (v + s^2) y,
    the flow to sqrt(v / (v + S^2)) y: both errors are a number times those of the start."""
    (found,) = plan(target.model.sde, ["ddim(grid='log_snr')"], nfes=[steps])
    row = bench.measure(found, seed=3)
    levels = [LARGEST * (SMALLEST / LARGEST) ** (k / (steps - 1)) for k in range(steps)]
    factor = VARIANCE / (VARIANCE + levels[-1] ** 2)
    for s, after in pairwise(levels):
        factor *= after / s + (1 - after / s) * VARIANCE / (VARIANCE + s**2)
    off = abs(factor - math.sqrt(VARIANCE / (VARIANCE + LARGEST**2)))
    sizes = target.start(example_seeds(3, 16)).square().mean(1)
    assert row.nfe == steps
    assert row.rms == pytest.approx(off * float(sizes.mean().sqrt()), rel=1e-5)
    assert row.median == pytest.approx(off * float(sizes.sqrt().quantile(0.5)), rel=1e-5)


def test_errors_are_per_dimension_and_the_median_is_over_samples():
    ends = torch.zeros(4, 1, 2)
    samples = torch.tensor([[[1.0, 1.0]], [[3.0, 3.0]], [[0.0, 0.0]], [[2.0, -2.0]]])
    assert endpoint_error(samples, ends) == pytest.approx((math.sqrt(14 / 4), 1.5))


@pytest.mark.parametrize(("scale", "sign"), [(1.5, 1), (0.6, -1)])
def test_gap_of_too_wide_and_too_narrow_samples(target, scale, sign):
    """Samples of variance c v instead of v have the gap (c - 1) / 2 per dimension."""
    exact = target.data(2000, 5)
    row = Bench(target, 2000, FlowEnds(target), 2000).measure(
        entry(lambda *_: math.sqrt(scale) * exact, stochastic=True), 0
    )
    assert abs(row.nll_gap.value - (scale - 1) / 2) < 4 * row.nll_gap.standard_error
    assert math.copysign(1, row.nll_gap.value) == sign
    assert (row.rms, row.median) == (None, None)


def test_interval_of_the_gap_is_as_wide_as_the_gap_varies(target):
    """Over 300 sets of perfect samples: the spread of the gap, and that 95% of intervals hold 0."""
    bench = Bench(target, 50, FlowEnds(target))
    gaps = [bench._nll_gap(target.data(50, 100 + k)) for k in range(300)]
    spread = torch.tensor([gap.value for gap in gaps]).std()
    mean = sum(gap.standard_error for gap in gaps) / 300
    assert mean == pytest.approx(float(spread), rel=0.12)
    assert sum(gap.low <= 0 <= gap.high for gap in gaps) / 300 == pytest.approx(0.95, abs=0.035)
    assert bench.floors["nll gap"].value == 0
    assert bench.floors["nll gap"].standard_error == pytest.approx(float(spread), rel=0.3)


def test_perfect_samples_are_at_the_floors(target):
    bench = Bench(target, 200, FlowEnds(target), 200)
    row = bench.measure(entry(lambda *_: target.data(200, 9), stochastic=True), 0)
    found = {**row.distances, "nll gap": row.nll_gap}
    assert set(found) == set(bench.floors) == {"sliced-wasserstein2", "energy", "nll gap"}
    for name, floor in bench.floors.items():
        assert abs(found[name].value - floor.value) < 3 * floor.margin
    worse = bench.measure(entry(lambda *_: target.data(200, 9) + 0.5, stochastic=True), 0)
    for name, each in {**worse.distances, "nll gap": worse.nll_gap}.items():
        assert each.value > bench.floors[name].high


@pytest.mark.parametrize("batch", [3, 7, 100])
def test_evaluations_are_counted_per_sample(target, batch):
    (found,) = plan(target.model.sde, ["heun(steps=5)"])
    assert Bench(target, 10, FlowEnds(target), batch).measure(found, 0).nfe == 9


def test_all_entries_and_batches_start_from_the_same_noise(target):
    seen, other, later = [], [], []
    Bench(target, 16, FlowEnds(target)).measure(entry(listening(seen)), 4)
    Bench(target, 16, FlowEnds(target), 5).measure(entry(listening(other)), 4)
    Bench(target, 16, FlowEnds(target)).measure(entry(listening(later)), 5)
    assert [len(part) for part in other] == [5, 5, 5, 1]
    assert torch.equal(torch.cat(other), seen[0])
    assert not torch.equal(later[0], seen[0])


def test_noise_on_the_way_is_not_the_start_once_more(target):
    (found,) = plan(target.model.sde, ["ancestral"], nfes=[6])
    seeds = example_seeds(2, 4)
    got = found.draw(target, target.start(seeds), seeds, None)
    want = samplers.create("ancestral", steps=6)(target.model, (4, 2), seed=seeds)
    assert torch.equal(got, want)
    assert found.stochastic


# --- what goes wrong


def test_a_sampler_that_fails_is_a_row_with_a_reason(bench):
    def fail(*_):
        raise RuntimeError("too few steps for this method")

    good = entry(listening([]), "good")
    found = run_benchmark(bench, [entry(fail, "bad"), good], progress=False)
    bad, fine = found.rows
    assert bad.reason == "RuntimeError: too few steps for this method"
    assert (bad.rms, bad.distances, bad.nll_gap) == (None, None, None)
    assert fine.reason == ""
    assert fine.rms > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_samples_that_diverge_are_counted_and_not_measured(bench, value):
    def diverge(target, start, seeds, condition):
        x = start.clone()
        x[[2, 5], 1] = value
        return x

    row = bench.measure(entry(diverge), 0)
    assert row.reason == "diverged: 2 of 16 samples"
    assert row.rms is None


def test_mistakes_of_the_program_are_not_swallowed(bench):
    def broken(*_):
        raise AttributeError("typing error")

    with pytest.raises(AttributeError):
        bench.measure(entry(broken), 0)


# --- budgets


@dataclass(frozen=True)
class Stubborn(DDIM):
    """Takes `least` to `most` steps only."""

    least: int = 7
    most: int = 99

    def iterate(self, problem, x):
        if not self.least <= self.steps <= self.most:
            raise ValueError(f"needs {self.least} steps")
        return super().iterate(problem, x)


@dataclass(frozen=True)
class Lazy(DDIM):
    """Every second evaluation is left out."""

    def times(self, sde):
        return replace(self.time_grid).times(sde, max(2, -(-self.steps // 2)))


@pytest.fixture
def registered(register_for_test):
    register_for_test(samplers.SAMPLERS, "stubborn", Stubborn)
    register_for_test(samplers.SAMPLERS, "lazy", Lazy)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("spec", "budget", "steps"),
    [
        ("ddim", 1, 1),
        ("ddim", 17, 17),
        ("heun", 9, 5),
        ("heun", 10, 5),
        ("heun", 1, 1),
        ("stubborn", 9, 9),
        ("stubborn(least=3, most=3)", 5, 3),
        ("lazy", 5, 10),
    ],
)
def test_steps_are_those_that_the_budget_pays_for(spec, budget, steps):
    sampler = samplers.create(spec, nfe=budget, model=EDM())
    model = GaussianMixture([[0.0, 1.0]], 1.0, EDM())
    assert sampler.run(model, (2, 2), seed=0).nfe <= budget
    assert sampler.steps == steps


@pytest.mark.usefixtures("registered")
def test_a_budget_that_is_too_small_has_a_reason(bench):
    entries = plan(EDM(), ["stubborn(least=30)", "ddim"], nfes=[5, 40])
    assert [bool(e.reason) for e in entries] == [True, False, False, False]
    assert "needs 30 steps" in entries[0].reason
    row = bench.measure(entries[0], 0)
    assert (row.reason, row.budget, row.sampler) == (
        entries[0].reason, 5, "stubborn(least=30)"
    )  # fmt: skip


def test_plan_is_every_sampler_on_every_grid_at_every_budget():
    entries = plan(EDM(), ["ddim", "heun(grid='uniform')"], ["karras", "log_snr"], [9, 5])
    assert [(e.sampler, e.grid, e.budget) for e in entries] == [
        ("ddim", "karras", 5), ("ddim", "karras", 9),
        ("ddim", "log_snr", 5), ("ddim", "log_snr", 9),
        ("heun", "uniform", 5), ("heun", "uniform", 9),
    ]  # fmt: skip
    assert entries[0].spec == "ddim(steps=5, grid='karras')"


def test_own_steps_tolerances_and_equal_budgets_have_one_entry():
    entries = plan(EDM(), ["ddim(steps=7)", "ode(rtol=1e-3)", "heun"], nfes=[9, 10, 9])
    assert [(e.spec, e.budget) for e in entries] == [
        ("ddim(steps=7)", None), ("ode(rtol=0.001)", None), ("heun(steps=5)", 9)
    ]  # fmt: skip


def test_a_new_sampler_joins_by_its_name(registered):
    assert {"stubborn", "lazy", "ddim"} <= set(available())
    assert "mcmc" not in available()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((["dddim"],), "unknown sampler 'dddim'"),
        ((["ddim(etta=1)"],), "does not take etta"),
        ((["ddim"], ["karas"]), "karas"),
        (([],), "samplers is empty"),
        ((["ddim"], [], []), "nfe is empty"),
        ((["ddim"], [], [5, 0]), "nfe=0"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(arguments, says):
    with pytest.raises((ValueError, OSError), match=says):
        plan(EDM(), *arguments)


# --- what is kept


def test_nothing_is_measured_twice(bench, tmp_path):
    seen, entries = [], []
    for name in ("a", "b"):
        entries.append(entry(listening(seen), name))
    path = tmp_path / "benchmark.jsonl"
    first = run_benchmark(bench, entries, seeds=[0, 1], journal=Journal(path), progress=False)
    assert len(seen) == 4
    again = run_benchmark(bench, entries, seeds=[0, 1], journal=Journal(path), progress=False)
    assert len(seen) == 4
    assert again == first
    run_benchmark(bench, entries, seeds=[0, 2], journal=Journal(path), progress=False)
    assert len(seen) == 6
    other = Bench(bench.target, 8, bench.flows)
    run_benchmark(other, entries[:1], journal=Journal(path), progress=False)
    assert len(seen) == 7
    changed = Bench(replace(bench.target, identity="another"), 16, bench.flows)
    run_benchmark(changed, entries[:1], journal=Journal(path), progress=False)
    assert len(seen) == 8


def test_a_killed_benchmark_goes_on(bench, tmp_path):
    seen, path = [], tmp_path / "benchmark.jsonl"

    def killed(*_):
        raise KeyboardInterrupt

    entries = [entry(listening(seen), name) for name in ("a", "b", "c")]
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(
            bench, [*entries[:2], entry(killed, "c")], journal=Journal(path), progress=False
        )
    assert len(seen) == 2
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])  # as if the last line had been cut off
    found = run_benchmark(bench, entries, journal=Journal(path), progress=False)
    assert len(seen) == 4
    assert [row.sampler for row in found.rows] == ["a", "b", "c"]
    lines = path.read_text().splitlines()
    assert len(lines) == 4  # three rows and the floors
    assert all(json.loads(line) for line in lines)


@pytest.mark.parametrize("content", ["hello", "[1]", "{}", "3", "[" * 100_000])
def test_a_file_that_is_no_journal_is_refused(tmp_path, content):
    path = tmp_path / "benchmark.jsonl"
    path.write_text(f"{content}\n")
    with pytest.raises(ValueError, match=r"benchmark\.jsonl is not a journal"):
        Journal(path)


def test_results_of_another_version_are_measured_anew(bench, tmp_path):
    path, seen = tmp_path / "benchmark.jsonl", []
    one = entry(listening(seen))
    want = run_benchmark(bench, [one], journal=Journal(path), progress=False)
    (key, row), (floors_key, floors) = map(json.loads, path.read_text().splitlines())
    older = [
        {k: v for k, v in row.items() if k != "stochastic"},
        {k: [v] for k, v in floors.items()},
    ]
    lines = [json.dumps(pair) + "\n" for pair in zip([key, floors_key], older, strict=True)]
    path.write_text("".join(lines))
    found = run_benchmark(bench, [one], journal=Journal(path), progress=False)
    assert len(seen) == 2
    assert (found.floors, found.rows[0].rms) == (want.floors, want.rows[0].rms)


def test_flow_is_found_once_per_start(target, tmp_path, monkeypatch):
    monkeypatch.setattr("sde_score.evaluation.benchmarks.reference_flow.PART", 8)
    asked = []

    def flow(x, condition):
        asked.append(len(x))
        return x * 0.5

    counted = replace(target, flow=flow)
    ends = FlowEnds(counted, tmp_path)(3, 20)
    assert asked == [8, 8, 4]
    assert torch.equal(ends, 0.5 * target.start(example_seeds(3, 20)))
    again = FlowEnds(counted, tmp_path)
    assert torch.equal(again(3, 20), ends)
    assert torch.equal(again(3, 16), ends[:16])
    assert asked == [8, 8, 4]
    assert not torch.equal(again(4, 8), ends[:8])
    assert asked == [8, 8, 4, 8]
    in_memory = FlowEnds(counted)
    assert torch.equal(in_memory(3, 8), in_memory(3, 8))
    assert asked == [8, 8, 4, 8, 8]
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:40])
    assert torch.equal(FlowEnds(counted, tmp_path)(3, 20), ends)
    FlowEnds(replace(counted, identity="another"), tmp_path)(3, 8)
    assert asked == [8, 8, 4, 8, 8, 8, 8, 4, 8]


def test_rows_survive_json():
    row = BenchmarkRow("heun", "karras", "heun(steps=5)", False, 10, "", 0, 9.0, 0.5, 0.1, 0.05,
                       {"energy": Interval(0.1, 0.02)}, Interval(-0.3, 0.1))  # fmt: skip
    assert BenchmarkRow.from_record(json.loads(json.dumps(row.record()))) == row
    failed = BenchmarkRow("heun", "karras", "heun(steps=5)", False, reason="no")
    text = json.dumps(failed.record(), allow_nan=False)
    assert math.isnan(BenchmarkRow.from_record(json.loads(text)).nfe)


def test_seeds_are_averaged():
    def row(seed, rms, median, gap, **changes):
        found = BenchmarkRow("a", "g", "a(steps=5)", False, 5, "", seed, 5.0, 1.0, rms, median,
                             {"d": Interval(gap, 0.1)}, Interval(gap, 0.1))  # fmt: skip
        return replace(found, **changes)

    rows = (row(0, 3.0, 1.0, 0.1), row(1, 4.0, 2.0, 0.9), row(0, 7.0, 1.0, 0.1, spec="b"))
    mean, single = Benchmark("t", "s", "f", 8, ("d",), {}, rows).means
    assert (mean.seed, mean.median) == (None, 1.5)
    assert mean.rms == pytest.approx(math.sqrt(12.5))  # of all starts together
    assert mean.nll_gap.value == mean.distances["d"].value == pytest.approx(0.5)
    assert mean.nll_gap.standard_error == pytest.approx(0.4)  # the spread says more than 0.1
    assert single.rms == 7.0
    alike = (row(0, 1.0, 1.0, 0.5), row(1, 1.0, 1.0, 0.5))
    (steady,) = Benchmark("t", "s", "f", 8, ("d",), {}, alike).means
    assert steady.nll_gap.standard_error == pytest.approx(0.1 / math.sqrt(2))
    broken = (row(0, 1.0, 1.0, 0.5), row(1, None, None, 0.5, reason="diverged"))
    (failed,) = Benchmark("t", "s", "f", 8, ("d",), {}, broken).means
    assert failed.reason == "1 of 2 seeds: diverged"
    assert failed.rms is None


def test_nothing_to_measure_is_refused(bench):
    with pytest.raises(ValueError, match="must not be empty"):
        run_benchmark(bench, [], progress=False)
    with pytest.raises(ValueError, match="count=2"):
        Bench(bench.target, 2, bench.flows)


def test_generator_of_draws_is_not_that_of_the_starts(target):
    """Draws of the data must not be the noise that samplers start from."""
    start = target.start(example_seeds(0, 8)) / LARGEST
    draws = target.data(8, 0) / math.sqrt(VARIANCE)
    assert not torch.allclose(start, draws)
    assert not torch.allclose(start, torch.randn(8, 2, generator=generator_from(0)).double())


@pytest.mark.parametrize("place", [-2, -30, 20])
def test_a_damaged_file_of_the_flow_is_found_anew(target, tmp_path, place):
    """A changed number, or a header as of a version without digests, is not believed."""
    asked = []

    def flow(x, condition):
        asked.append(len(x))
        return x * 0.5

    counted = replace(target, flow=flow)
    ends = FlowEnds(counted, tmp_path)(3, 8)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[place] ^= 0x20
    for damaged in (bytes(content), save({"ends": torch.zeros_like(ends)}), b""):
        file.write_bytes(damaged)
        assert torch.equal(FlowEnds(counted, tmp_path)(3, 8), ends)
    assert asked == [8] * 4
    assert torch.equal(FlowEnds(counted, tmp_path)(3, 8), ends)
    assert asked == [8] * 4
