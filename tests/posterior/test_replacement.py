"""Known parts of a state, and the samplers that overwrite them."""

from __future__ import annotations

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.posterior import (
    SAMPLERS,
    LogLikelihood,
    Mask,
    Matrix,
    MeanPool,
    Measurement,
    RePaint,
    Replacement,
)
from sde_score.posterior.samplers.known import KnownPart
from sde_score.sdes import EDM, VP


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seen(operator, std=0.1, seed=9):
    return Measurement(operator, normal(*operator.measured_shape, seed=seed), std)


@pytest.mark.parametrize("sde", [VP(), EDM()], ids=str)
@pytest.mark.parametrize(
    ("operator", "std"),
    [
        (MeanPool((1, 6), 3), 0.05),
        (MeanPool((1, 6), 3), torch.tensor([[0.1, 0.3]])),
        (Matrix(normal(2, 6), (1, 6)), 0.2),
        (Matrix(normal(2, 6), (1, 6)), torch.tensor([0.1, 0.3])),
    ],
    ids=["pool", "each", "matrix", "correlated"],
)
def test_the_known_part_is_a_draw_of_the_state_given_the_observation(sde, operator, std):
    """Of measured coordinates the covariance about alpha A x0 is that of A x_t, while y allows."""
    measurement = seen(operator, std)
    mean = operator.pinv(measurement.y[None]).flatten(1)
    part = KnownPart(measurement)
    times = torch.linspace(sde.t_min, sde.t_max, 7, dtype=torch.float64)
    found = part.deviations(sde, times)
    basis = torch.eye(6, dtype=torch.float64).reshape(6, 1, 6)
    matrix = operator.matrix.T
    exact = operator.pinv(operator(basis)).flatten(1)  # the projection on what is measured
    some = 0
    for t, factor in zip(times, found, strict=True):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        states = part.overwrite(torch.zeros_like(basis), float(alpha), factor, basis).flatten(1)
        states = states - alpha * mean
        noise = alpha**2 * torch.as_tensor(std).double().flatten().expand(2) ** 2
        inverse = torch.linalg.pinv(matrix)  # y -> x
        covariance = states.T @ states + inverse.T @ torch.diag(noise) @ inverse
        if not factor.isnan().any():
            torch.testing.assert_close(covariance, sigma**2 * exact)
            some += 1
    assert 0 < some < 7
    assert found.isnan().any()


@pytest.mark.parametrize("name", ["replacement", "pc-inpaint"])
def test_steps_by_hand(name):
    """A step, then the known part from a noised copy; with Langevin steps after it, once more."""
    sde, mask = VP(), torch.tensor([True, False, True])
    prior = GaussianMixture([[0.3, -0.2, 0.1]], torch.tensor([[0.5, 0.1, 0.9]]), sde)
    measurement = Measurement(Mask(mask), normal(2), torch.tensor([0.01, 0.4]))
    sampler = SAMPLERS.create(name, observation=measurement, steps=5)
    start, draws = normal(4, 3, seed=2), iter(normal(20, 4, 3, seed=3))
    got = sampler(prior, start, noise=lambda: next(draws), progress=False)
    base = samplers.create("ancestral" if name == "replacement" else "reverse-diffusion", steps=5)
    times, draws = base.times(sde), iter(normal(20, 4, 3, seed=3))
    x, untouched = start.clone(), 0
    for k, t in enumerate(times):
        if k:
            a, b, c = (row[0] for row in base.coefficients(sde, times[k - 1 : k], t[None]))
            x = a * x + b * prior.score(x, times[k - 1]) + c * next(draws)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        for again in range(1 if name == "replacement" else 2):
            if again:
                size, score = 2 * (0.16 * sigma) ** 2, prior.score(x, t)
                x = x + size * score + (2 * size).sqrt() * next(draws)
            z, deviations = next(draws), measurement.variance.sqrt()
            for place, y, std in zip([0, 2], measurement.y, deviations, strict=True):
                left = sigma**2 - (alpha * std) ** 2
                if left > 0:
                    x[:, place] = alpha * y + left.sqrt() * z[:, place]
                untouched += int(left <= 0)
    torch.testing.assert_close(got, prior.denoise(x, times[-1]))
    assert untouched


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sample_is_that_of_its_seed(name):
    prior = GaussianMixture([[-1.0, 2.0], [1.0, -2.0]], 0.1, VP())
    observation = Measurement(Mask(torch.tensor([True, False])), torch.ones(1), 0.1)
    sampler = SAMPLERS.create(name, observation=observation, steps=8)
    whole = sampler(prior, (3, 2), seed=[4, 5, 6], progress=False)
    torch.testing.assert_close(whole[1:2], sampler(prior, (1, 2), seed=[5], progress=False))
    assert sampler.limit in str(sampler)
    assert sampler.count_nfe() == prior.nfe / 2


def test_repaint_goes_back_up_and_down_again():
    """Places of a grid from the noise; rises by the transition, in its right size."""
    sde = VP()
    prior = GaussianMixture([[0.0, 0.0]], 1.0, sde)
    observation = Measurement(Mask(torch.tensor([True, False])), torch.ones(1), 1e-3)
    sampler = SAMPLERS.create("repaint", observation=observation, steps=6, jump=2, resample=3)
    got = sampler(prior, (3, 2), seed=0, progress=False, trajectory=True)
    times, places = sampler.times(sde), [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5]
    torch.testing.assert_close(got.times[:-1], times[places])
    assert len(places) - 1 == sampler.total == len(got.times) - 2
    assert got.nfe == 14  # 13 steps down and the last
    start, draws = normal(4, 2, seed=2), iter(normal(60, 4, 2, seed=3))
    states = sampler(
        prior, start, noise=lambda: next(draws), progress=False, trajectory=True
    ).states
    draws = iter(normal(60, 4, 2, seed=3))
    for _ in range(7):  # the known part of the start; steps and known parts down to the first rise
        next(draws)
    up, down = times[1], times[3]
    scale, std = sde.alpha(up) / sde.alpha(down), None
    std = (sde.sigma(up) ** 2 - scale**2 * sde.sigma(down) ** 2).sqrt()
    risen = scale * states[3] + std * next(draws)
    torch.testing.assert_close(states[4], risen)


@pytest.mark.parametrize("predictor", ["ddim", "dpmpp-2m", "heun"])
def test_any_predictor_comes_to_what_was_seen(predictor):
    prior = GaussianMixture([[-1.0, 2.0], [1.0, -2.0]], 0.1, VP())
    observation = Measurement(Mask(torch.tensor([True, False])), torch.ones(1), 0.05)
    sampler = Replacement(steps=20, predictor=predictor, observation=observation)
    whole = sampler(prior, (8, 2), seed=0, progress=False)
    assert (whole[:, 0] - 1).abs().median() < 0.15
    assert (whole[:, 1] < 0).sum() > 4  # the mode that the known entry tells


def test_what_it_cannot_overwrite_is_refused_with_what_can():
    for kind in (Replacement, RePaint):
        with pytest.raises(TypeError, match=f"{kind.__name__} needs a Measurement"):
            kind(observation=LogLikelihood(lambda x: x.sum(1)))
    with pytest.raises(ValueError, match="does not fit the operator"):
        Replacement(observation=seen(Mask(torch.tensor([True]))))(
            GaussianMixture([[0.0, 0.0]], 1.0, VP()), (1, 2), progress=False
        )
