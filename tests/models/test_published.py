"""Parametrizations of published networks: the formulas of their papers, written out."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.models import PARAMETRIZATIONS, ScoreModel
from sde_score.models.rows import OURS
from sde_score.models.time_labels import iddpm_levels
from sde_score.sdes import EDM, VE, VP, Rectified, Tabulated

SIGMAS = torch.tensor([0.003, 0.05, 0.7, 4.0, 60.0], dtype=torch.float64)


def x_of(times):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(times), 3, dtype=torch.float64, generator=generator)


def nearest(levels, s):
    return (levels - s[:, None]).abs().argmin(1).double()


def network(seen):
    """A network that keeps its label and answers with a function of what it is fed."""

    def call(x, label):
        seen.append((x, label))
        return torch.sin(x) + 0.1 * label[:, None]

    return call


def test_the_rows_of_this_package_come_first():
    assert list(PARAMETRIZATIONS)[: len(OURS)] == list(OURS)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_every_row_is_the_text_that_names_it(name):
    row = PARAMETRIZATIONS.create(name)
    assert PARAMETRIZATIONS.create(repr(row)) == row
    assert PARAMETRIZATIONS.text_of(row) == repr(row)


@pytest.mark.parametrize(
    ("name", "c_skip", "c_out", "c_in", "c_noise"),
    [
        (
            "edm-vp",
            lambda s: 1 + 0 * s,
            lambda s: -s,
            lambda s: 1 / (s**2 + 1).sqrt(),
            lambda s: 999 * ((0.1**2 + 2 * 19.9 * (s**2 + 1).log()).sqrt() - 0.1) / 19.9,
        ),
        ("edm-ve", lambda s: 1 + 0 * s, lambda s: s, lambda s: 1 + 0 * s, lambda s: (s / 2).log()),
        (
            "iddpm",
            lambda s: 1 + 0 * s,
            lambda s: -s,
            lambda s: 1 / (s**2 + 1).sqrt(),
            lambda s: (
                999 - (iddpm_levels(0.001, 0.008, 1000) - s[:, None]).abs().argmin(1).double()
            ),
        ),
        (
            "edm",
            lambda s: 0.25 / (s**2 + 0.25),
            lambda s: s * 0.5 / (s**2 + 0.25).sqrt(),
            lambda s: 1 / (s**2 + 0.25).sqrt(),
            lambda s: s.log() / 4,
        ),
    ],
)
def test_table_1_of_edm(name, c_skip, c_out, c_in, c_noise):
    """D = c_skip x + c_out F(c_in x, c_noise)."""
    seen = []
    model = ScoreModel(network(seen), EDM(), name, 0.5)
    times = EDM().time_of_noise_ratio(SIGMAS)
    x, s = x_of(times), SIGMAS[:, None]
    got = model.denoise(x, times)
    want = c_skip(s) * x + c_out(s) * network([])(c_in(s) * x, c_noise(SIGMAS))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(seen[0][1], c_noise(SIGMAS), rtol=1e-9, atol=1e-9)


def test_levels_of_improved_ddpm():
    """u_{j-1}^2 + 1 = (u_j^2 + 1) / max(abar_{j-1} / abar_j, c1), from zero; u_0 of 20 by hand."""
    levels = iddpm_levels(0.001, 0.008, 20)
    assert levels[20] == 0
    assert bool((levels.diff() < 0).all())
    abar = [math.sin(math.pi / 2 * j / 20 / 1.008) ** 2 for j in range(21)]
    product = 1.0
    for j in range(20, 0, -1):
        product *= max(abar[j - 1] / abar[j], 0.001)
        assert levels[j - 1].item() == pytest.approx(math.sqrt(1 / product - 1), rel=1e-10)


def test_score_sde_vp_takes_999_t_and_answers_with_the_noise():
    seen, times = [], torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64)
    model, x = ScoreModel(network(seen), VP(), "score-sde-vp"), x_of(times)
    sigma = VP().sigma(times)[:, None]
    torch.testing.assert_close(model.score(x, times), -network([])(x, 999 * times) / sigma)


def test_score_sde_ve_takes_log_sigma_and_divides_by_sigma():
    times = torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64)
    sde, x = VE(0.02, 100.0), x_of(times)
    sigma = sde.sigma(times)
    model = ScoreModel(network([]), sde, "score-sde-ve(unit_level=2.0)")
    want = network([])(x, (sigma / 2).log()) / sigma[:, None]
    torch.testing.assert_close(model.score(x, times), want)


def test_score_sde_ve_discrete_counts_from_the_most_noise():
    seen, times = [], torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    model = ScoreModel(network(seen), VE(), "score-sde-ve-discrete(n=101)")
    model.score(x_of(times), times.clamp(min=VE().t_min))
    assert seen[0][1].tolist() == [100.0, 75.0, 0.0]


@pytest.mark.parametrize("labels", [4000.0, 1000.0])
def test_ddpm_counts_layers_from_the_least_noise(labels):
    """Layer i, at t = i / n, has the label (i - 1) labels / n."""
    sde = Tabulated.from_betas(torch.linspace(1e-5, 5e-3, 4000))
    seen, layers = [], torch.tensor([1, 2, 1607, 4000])
    times = layers / 4000
    model = ScoreModel(network(seen), sde, f"ddpm(n=4000, labels={labels})")
    model.score(x_of(times), times.double().clamp(min=sde.t_min))
    torch.testing.assert_close(
        seen[0][1], (layers.double() - 1) * labels / 4000, rtol=1e-6, atol=1e-4
    )


def test_ddpm_rounds_where_it_is_asked_to():
    sde = Tabulated.from_betas(torch.linspace(1e-4, 2e-2, 100))
    seen, times = [], torch.tensor([0.0149, 0.0151, 0.5], dtype=torch.float64)
    ScoreModel(network(seen), sde, "ddpm(n=100, rounded=True)").score(x_of(times), times)
    assert seen[0][1].tolist() == [0.0, 1.0, 49.0]


@pytest.mark.parametrize("output", ["noise", "data", "v"])
def test_outputs_of_ddpm(output):
    """v = alpha noise - sigma data."""
    times = torch.tensor([0.02, 0.4, 1.0], dtype=torch.float64)
    data, noise = x_of(times), x_of(times).flip(0)
    alpha, sigma = VP().alpha(times)[:, None], VP().sigma(times)[:, None]
    answer = {"noise": noise, "data": data, "v": alpha * noise - sigma * data}[output]
    model = ScoreModel(lambda x, label: answer, VP(), f"ddpm(output={output!r})")
    torch.testing.assert_close(model.denoise(alpha * data + sigma * noise, times), data)
    torch.testing.assert_close(model.noise(alpha * data + sigma * noise, times), noise)


def test_rectified_takes_t_and_answers_with_the_velocity():
    seen, times = [], torch.tensor([0.02, 0.4, 0.99], dtype=torch.float64)
    model, x = ScoreModel(network(seen), Rectified(), "rectified(factor=1000.0)"), x_of(times)
    torch.testing.assert_close(model.velocity(x, times), network([])(x, 1000 * times))


@pytest.mark.parametrize("sde", [VP(), EDM()])
def test_trigflow_moves_on_a_circle(sde):
    """x / k = cos data + sin sigma_data noise; F = (cos sigma_data noise - sin data) / sigma_data
    at x / (k sigma_data), and the label is the angle."""
    seen = []
    times = sde.time_of_noise_ratio(torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64))
    data, noise = 0.5 * x_of(times), x_of(times).flip(0)
    alpha, sigma = sde.alpha(times)[:, None], sde.sigma(times)[:, None]
    angle = torch.atan(sigma / alpha / 0.5)
    answer = angle.cos() * noise - angle.sin() * data / 0.5

    def perfect(x, label):
        seen.append((x, label))
        return answer

    model = ScoreModel(perfect, sde, "trigflow", 0.5)
    torch.testing.assert_close(model.denoise(alpha * data + sigma * noise, times), data)
    torch.testing.assert_close(seen[0][1], angle[:, 0])
    circle = (angle.cos() * data + angle.sin() * 0.5 * noise) / 0.5
    torch.testing.assert_close(seen[0][0], circle)
