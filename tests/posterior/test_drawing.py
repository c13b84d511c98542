"""Samples by the name of any method, and operators by theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sde_score import posterior
from sde_score.models import GaussianMixture
from sde_score.posterior import Mask, Measurement
from sde_score.posterior.named_operators import OPERATORS, operator_of

PRIOR = GaussianMixture([[-1.0, 2.0], [1.0, -2.0]], 0.1, "vp")
SEEN = Measurement(Mask(torch.tensor([True, False])), torch.tensor([0.9]), 0.1)
FEW = {
    "ddrm": "ddrm(steps=6)",
    "repaint": "repaint(steps=6)",
    "daps": "daps(steps=6)",
    "pnp-dm": "pnp-dm(steps=4)",
    "d-flow": "d-flow(iterations=2)",
}


@pytest.mark.parametrize("method", posterior.available())
def test_each_method_draws_sample_i_by_its_seed_whatever_the_batch(method):
    spec = FEW.get(method, method)
    few = {}
    if method in posterior.PARTICLES:
        few["sampler"] = "smc(steps=6, particles=5, islands=2)"
    elif method in posterior.METHODS:
        few["sampler"] = posterior.METHODS[method].sampler.split("(")[0] + "(steps=6)"
    elif spec == method:
        spec = f"{method}(steps=6)"
    whole = posterior.sample(PRIOR, SEEN, spec, 3, seed=4, progress=False, **few)
    parts = posterior.sample(PRIOR, SEEN, spec, 3, seed=4, batch_size=1, progress=False, **few)
    torch.testing.assert_close(parts.samples, whole.samples)
    assert whole.samples.shape == (3, 2)
    assert whole.nfe > 0
    assert whole.limit.startswith(("exact", "biased"))
    assert f"{spec}: {whole.limit}" in str(whole)
    assert (whole.particles is not None) == (method in posterior.PARTICLES)


def test_what_fits_no_method_is_refused_before_anything_is_drawn():
    reward = posterior.LogLikelihood(lambda x: x.sum(1))
    for arguments, options, said in [
        ((PRIOR, SEEN, "mmsp"), {}, "unknown method 'mmsp'"),
        ((PRIOR, SEEN, "ddrm"), {"sampler": "ddim"}, "ddrm has steps of its own"),
        ((PRIOR, SEEN, "twisted"), {"sampler": "ddim"}, "sampler"),
        ((PRIOR, SEEN, "mmps"), {"sampler": "smc"}, "sampler"),
        ((PRIOR, reward, "c-dps"), {}, "event_shape is missing"),
        ((PRIOR, 3, "mmps"), {}, "accepted: a Measurement"),
        ((PRIOR, SEEN, "mmps"), {"condition": torch.zeros(2, 1)}, "an entry for one sample"),
    ]:
        with pytest.raises((ValueError, TypeError), match=said):
            posterior.sample(*arguments, progress=False, **options)
    tilted = posterior.sample(
        PRIOR, reward, "twisted", 4, event_shape=(2,), progress=False,
        sampler="smc(steps=5, particles=4)",
    )  # fmt: skip
    assert tilted.samples.shape == (4, 2)


def test_operators_by_name(tmp_path):
    shape = (1, 8, 8)
    x = torch.arange(64.0).reshape(1, *shape)
    np.save(tmp_path / "known.npy", np.eye(8) > 0)
    np.save(tmp_path / "a.npy", np.ones((2, 64)))
    box = operator_of("mask(box=(2, 3, 4, 5))", shape)
    hole = torch.ones(8, 8, dtype=torch.bool)
    hole[2:6, 3:8] = False
    torch.testing.assert_close(box(x)[0], x[0, 0][hole])
    for spec, measured in {
        "mask(share=0.25)": (16,),
        f"mask(file={str(tmp_path / 'known.npy')!r})": (8,),
        "mean-pool(factor=2)": (1, 4, 4),
        "resize(size=(4, 4))": (1, 4, 4),
        "blur(width=3)": shape,
        "fourier(share=0.5)": (1, 32, 2),
        "radon(count=3)": (1, 3, 8),
        "gray": shape,
        f"matrix(file={str(tmp_path / 'a.npy')!r})": (2,),
    }.items():
        assert operator_of(spec, shape).measured_shape == measured, spec
    torch.testing.assert_close(operator_of("blur(width=3)", shape)(torch.ones_like(x)), 0 * x + 1)
    low = operator_of("fourier(share=0.02)", shape)
    torch.testing.assert_close(low(x)[0, 0, 0, 0], x.sum() / 8)  # zero frequency is the lowest
    assert operator_of("mask(columns=(0, 2))", (3,))(torch.tensor([[5.0, 6, 7]])).tolist() == [
        [5, 7]
    ]
    assert operator_of(box, shape) is box
    assert next(iter(OPERATORS)) == "mask"


@pytest.mark.parametrize(
    ("spec", "shape", "said"),
    [
        ("mask(share=0.5, columns=(0,))", (1, 8, 8), "share and columns all say"),
        ("mask(share=2.0)", (1, 8, 8), r"share=2.0 must lie in \(0, 1\]"),
        ("mask(box=(4, 4, 5, 2))", (1, 8, 8), "does not lie in an image of 8 x 8"),
        ("mask(box=(0, 0, 1, 1))", (3,), "of images"),
        ("mask(columns=(3,))", (3,), "columns of a table, 0 to 2"),
        ("mask(file='absent.npy')", (3,), "file=absent.npy is no array"),
        ("fourier(share=0.0)", (1, 8, 8), "share=0.0"),
        ("blur(width=4)", (1, 8, 8), "width=4 must be odd"),
        ("masc", (3,), "did you mean 'mask'"),
    ],
)
def test_wrong_names_of_operators_are_refused(spec, shape, said):
    with pytest.raises(ValueError, match=said):
        operator_of(spec, shape)
