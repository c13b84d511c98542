"""Coefficients as numbers: the samples of the rule that made them, on any diffusion; refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.samplers import Fitted, NoiseRatios, create
from sde_score.samplers.fixed_step.fitted import linear_form
from sde_score.sdes import EDM, VP

MEANS = [[-1.0, 0.5], [1.0, 0.0]]
MIXTURE = GaussianMixture(MEANS, 0.04, EDM())
TWO = Fitted(2, NoiseRatios((80.0, 1.0)), rows=((0.5, 0.5), (0.1, 0.6, 0.3)))


def start(sde, num=6):
    generator = torch.Generator().manual_seed(0)
    return sde.prior_std * torch.randn(num, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sde", ["vp", "edm", "rectified"])
@pytest.mark.parametrize(
    "spec",
    [
        "ddim(steps=5)",
        "adams(steps=6, corrector=2)",
        "dpmpp-3m(steps=7)",
        "unipc(steps=6)",
        "dpm-2s(steps=3)",
        "ipndm(steps=6)",
        "multistep(steps=1)",
    ],
)
def test_numbers_give_the_samples_of_the_rule(spec, sde):
    model = GaussianMixture(MEANS, 0.04, sde)
    sampler, x = create(spec), start(model.sde)
    form = linear_form(sampler, model.sde)
    assert form.count_nfe(model) == sampler.count_nfe(model) == form.steps
    ours, theirs = form(model, x, progress=False), sampler(model, x, progress=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert linear_form(form, model.sde) is form


@pytest.mark.parametrize("spec", ["heun(steps=3)", "parallel(steps=4)", "ancestral(steps=3)"])
def test_what_has_no_such_form_is_told(spec):
    assert linear_form(create(spec), VP()) is None


def test_the_frame_is_that_of_all_diffusions():
    """Samples of two diffusions of the same data agree where the noise ratios do."""
    vp = GaussianMixture(MEANS, 0.04, VP())
    form = linear_form(create("adams(steps=6)"), vp.sde)
    least, most = (vp.sde.noise_ratio(t).item() for t in (vp.sde.t_min, vp.sde.t_max))
    edm = GaussianMixture(MEANS, 0.04, EDM(least, most))
    x = start(vp.sde)
    moved = x / vp.sde.alpha(vp.sde.t_max)
    ours, theirs = form(vp, x, progress=False), form(edm, moved, progress=False)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_step_by_hand():
    x = torch.tensor([[40.0, -80.0]], dtype=torch.float64)
    first = MIXTURE.denoise(x, 80.0)
    second = MIXTURE.denoise(0.5 * x + 0.5 * first, 1.0)
    wanted = 0.1 * (0.5 * x + 0.5 * first) + 0.6 * second + 0.3 * first
    torch.testing.assert_close(TWO(MIXTURE, x, progress=False), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 3}, "steps=3, 2 rows and 2 noise ratios do not agree"),
        ({"grid": NoiseRatios((80.0,))}, "1 noise ratios do not agree"),
        ({"denoise": False}, "denoise=False"),
        ({"grid": "karras"}, "needs the noise ratios and the rows"),
        ({"rows": ((0.5, 0.5, 0.5), (0.1, 0.6))}, r"rows\[0\] must hold 1 to 2 finite numbers"),
        ({"rows": ((0.5, 0.5), ())}, r"rows\[1\] must hold 1 to 3"),
        ({"rows": ((0.5, float("nan")), (0.1,))}, r"finite"),
    ],
)
def test_numbers_that_do_not_agree_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        replace(TWO, **change)


def test_the_name_alone_says_where_it_comes_from():
    with pytest.raises(ValueError, match=r"give the \.json file that tune wrote"):
        create("fitted")


def test_another_start_is_refused():
    with pytest.raises(ValueError, match=r"start at a noise ratio of 80.*starts at 10.*tune"):
        TWO(GaussianMixture(MEANS, 0.04, EDM(0.002, 10.0)), (2, 2), seed=0)


def test_the_text_tells_coefficients_apart():
    other = replace(TWO, rows=((0.5, 0.5), (0.1, 0.6, 0.31)))
    assert str(TWO) == str(replace(TWO)) != str(other)
    assert len(str(TWO)) < 50
    assert "steps" not in TWO.text("steps")
