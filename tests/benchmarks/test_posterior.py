"""The tables of posteriors: their problems are what they say, and every table prints its rows."""

from __future__ import annotations

import math
from itertools import islice

import mixture
import posterior
import posterior_composition
import posterior_mixture
import pytest
import results
import torch
from posterior_calibration import ALL, EXACT, PRIORS

from sde_score.posterior import Measurement

TINY = {
    "mixture": "--only exact twisted ddrm --steps 2 --count 2",
    "evidence": "--only fps --steps 4 --count 5",
    "composition": "--only cfg(3) --steps 4",
    "calibration": "--only ddrm fps --steps 2 --count 2",
}


@pytest.mark.parametrize("table", TINY)
def test_every_table_prints_and_keeps_its_rows(table, tmp_path, capsys):
    file = tmp_path / "rows.csv"
    posterior.main(["--table", table, "--quick", "--out", str(file), *TINY[table].split()])
    rows = results.read(file)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(rows)
    names = [name for name in rows[0] if name not in results.PROVENANCE]
    assert lines[0] == "| " + " | ".join(names) + " |"
    assert not any(value is None for row in rows for value in row.values())
    if table == "mixture":
        assert [row["method"] for row in rows[::3]] == ["exact denoiser", "twisted", "ddrm"]
        for row in rows:
            assert row["goal"] == pytest.approx(1.5 * row["W1, floor"] + 0.05, rel=1e-5)
            assert row["W1, floor"] == rows[[1, 2, 4].index(row["entries"])]["W1, floor"] > 0


def test_posteriors_and_evidence_are_those_of_the_rule_of_bayes():
    off = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for measured in (1, 4):
        for each in mixture.mixtures(measured, 2):
            x = each.exact(4, 1) + 0.1 * off
            found = each.prior.log_prob(x) + each.seen.log_prob(x) - each.posterior.log_prob(x)
            torch.testing.assert_close(found, torch.full_like(found, each.log_evidence))
    (_, first), *_, (linear, last) = posterior_mixture.known(10)
    assert first == next(mixture.mixtures(1, 1)).log_evidence
    prior, seen = linear
    assert isinstance(seen, Measurement)
    draws = prior.sample(20_000, generator=torch.Generator().manual_seed(1))
    values = seen.log_prob(draws).exp()
    assert values.mean().log() == pytest.approx(
        last, abs=4 * float(values.std() / values.mean()) / 141
    )


def test_problems_are_those_of_the_protocol():
    problem, other = mixture.mixtures(4, 2)
    prior, a = problem.prior, problem.seen.operator.matrix
    assert prior.means.shape == (25, 8)
    assert sorted({tuple(row) for row in prior.means.tolist()})[:2] == [
        (-16, -16) * 4, (-16, -8) * 4,
    ]  # fmt: skip
    assert torch.equal(prior.variances, torch.ones(25, 8).double())
    singular = torch.linalg.svdvals(a)
    assert ((singular > 0) & (singular < 1)).all()
    assert 0 < problem.seen.variance < singular[0] ** 2
    assert not torch.equal(a, other.seen.operator.matrix)
    assert (prior.sde.sigma_min, prior.sde.sigma_max) == (0.002, 500.0)


def test_distances_are_known_and_have_a_floor():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [0.0]])
    assert mixture.sliced(x, y) == pytest.approx(1.0)  # 0 to 0 and 1 to 3; the second moment is 2
    wide = torch.zeros(1, 8)
    wide[0, 0] = 2.0
    mean = 2 * math.gamma(4) / (math.gamma(4.5) * math.sqrt(math.pi))  # of |u d| on the sphere
    assert mixture.sliced(torch.zeros(1, 8), wide) == pytest.approx(mean, rel=0.2)
    problem = next(islice(mixture.mixtures(1, 1), 1))
    weights = problem.posterior.weights
    one = problem.posterior.means[weights.argmax()][None]
    assert problem.mode_distance(one) == pytest.approx(float(1 - weights.max()), abs=0.02)
    assert problem.mode_distance(problem.exact(2000, 0)) < 0.03
    near, far = (posterior_mixture.measure(problem, problem.exact(n, 1))[0] for n in (2000, 50))
    assert 0 < near < far


@pytest.mark.parametrize("name", posterior_composition.CASES)
def test_products_have_the_moments_of_their_integral(name):
    parts, powers = posterior_composition.CASES[name]
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    logs = sum(
        power * torch.distributions.Normal(m, v**0.5).log_prob(x)
        for (m, v), power in zip(parts, powers, strict=True)
    )
    density = logs.exp() * (x[1] - x[0])
    z = density.sum()
    mean = (x * density).sum() / z
    sd = ((x - mean) ** 2 * density).sum().div(z).sqrt()
    assert posterior_composition.exact(parts, powers) == pytest.approx(
        (float(mean), float(sd), float(z.log())), rel=1e-6
    )


def test_what_is_called_exact_is_so():
    assert set(EXACT["mixture"]) < set(EXACT["normal"]) < set(ALL)
    assert "mmps" not in EXACT["mixture"]
    assert not {"dps", "ddrm", "pigdm", "c-dps"} & set(EXACT["normal"])
    assert set(EXACT) == set(PRIORS)
