"""The benchmark of tuned samplers: targets are what they are called, peers run as ours do."""

import pytest
import torch

targets = pytest.importorskip("targets")
tuning = pytest.importorskip("tuning")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "ours"), [("Euler", "ddim"), ("LMS", "sigma-ab")])
def test_a_method_of_diffusers_is_ours_on_the_same_grid(name, ours):
    """Euler's and the linear multistep method in sigma are `ddim` and `sigma-ab`; its coefficients
    are integrals to 1e-4."""
    pytest.importorskip("diffusers")
    from sde_score import samplers

    target = targets.create("pair", "edm")
    x = target.start([0, 1, 2])
    oracle = tuning.peers.Oracle(target, None, 0)
    found = tuning.peers.diffusers_ve(name, "karras", oracle, x, 7)
    expected = samplers.create(ours, steps=7, grid="karras")(target.model, x, progress=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_errors_are_those_at_the_end_by_start():
    """Root mean square over the event, then over the starts, or their median."""
    end = torch.zeros(3, 2)
    found = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 1.0]])
    row = tuning.row("t", 5, "ours", "s", found, end)
    assert row["rms"] == pytest.approx(((12.5 + 2 + 1) / 3) ** 0.5)
    assert row["median"] == pytest.approx(2**0.5)
    assert tuning.row("t", 5, "ours", "s", found * torch.nan, end)["rms"] is None


def test_targets_have_the_dimensions_and_scales_of_their_names():
    """Five scales are the deviations of each mode, and modes lie on two spirals."""
    _, covariances, weights = targets.MIXTURES["five-scales"][0]()
    deviations = torch.linalg.eigvalsh(covariances).sqrt()
    scales = torch.tensor([0.02, 0.07, 0.25, 0.9, 3.0], dtype=torch.float64)
    expected = scales[torch.arange(16) % 5].sort().values
    torch.testing.assert_close(deviations, expected.expand(6, 16))
    assert weights.max() / weights.min() <= 3
    means, variance, _ = targets.MIXTURES["spirals"][0]()
    assert means.shape == (120, 2)
    assert variance == 0.02**2
    torch.testing.assert_close(means[:60], -means[60:])
    assert set(targets.HELD_OUT) < set(targets.MIXTURES)
