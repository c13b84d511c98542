"""Numbers recorded from the public score-SDE code: VP, sub-VP and VE agree with it."""

from __future__ import annotations

import pytest
import torch

from sde_score.discrete import HierarchicalVAE, NoiseScales, linear_betas
from sde_score.sdes import VE, VP, SubVP

NAMES = {"sde_vp": VP, "sde_subvp": SubVP, "sde_ve": VE}


@pytest.fixture(params=[(name, case) for name in NAMES for case in (0, 1)], ids=str)
def recorded(request, reference):
    """(sde, n, what was recorded, the score it used)."""
    name, case = request.param
    arrays, description = reference(name)
    params = description["params"]
    values = dict(params["cases"][case])
    n = values.pop("N")
    prefix = f"case{case}."
    chosen = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    chosen |= {k: arrays[k] for k in ("x", "t", "z")}

    def score(x, t):
        return -params["score_c"] * (1 + t.reshape(-1, 1, 1, 1)) * x + params["score_d"]

    return NAMES[name](**values), n, chosen, score


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_coefficients_and_marginal(recorded):
    sde, _, known, _ = recorded
    x, t = known["x"], known["t"]
    close(sde.drift(x, t), known["drift"])
    close(sde.diffusion(t), known["diffusion"])
    mean, std = sde.marginal(x, t)
    close(mean, known["marginal_mean"])
    close(std, known["marginal_std"])


def test_reverse_drifts(recorded):
    sde, _, known, score = recorded
    x, t = known["x"], known["t"]
    close(sde.reverse(score)(x, t), known["reverse_sde_drift"])
    close(sde.probability_flow(score)(x, t), known["reverse_ode_drift"])


def test_prior(recorded):
    sde, _, known, _ = recorded
    z = known["z"]
    close(sde.prior(z.shape).log_prob(z), known["prior_logp"])
    close(known["prior_noise"] * sde.prior(z.shape).std, known["prior_sample"])


def test_discrete_steps(recorded):
    """The chains of the discrete views, which read the SDE at `discrete_times`."""
    sde, n, known, _ = recorded
    x, t = known["x"], known["t"]
    index = (t * (n - 1)).long()
    if isinstance(sde, SubVP):
        scale, std = 1 + sde.drift_rate(t) / n, sde.diffusion(t) / n**0.5
    elif isinstance(sde, VP):
        betas = linear_betas(n, sde.beta_min / n, sde.beta_max / n)
        vae = HierarchicalVAE.from_betas(betas)
        scale, std = (table[index] for table in vae.encoder.steps)
        close(vae.encoder.alphas, known["sqrt_alphas_cumprod"])
        close(vae.encoder.sigmas, known["sqrt_1m_alphas_cumprod"])
        close(betas, known["discrete_betas"])
    else:
        sigmas = NoiseScales.geometric(sde.sigma_max, sde.sigma_min, n).sigmas.flip(0)
        close(sigmas, known["discrete_sigmas"])
        close(sigmas, sde.sigma(sde.discrete_times(n)))
        variances = torch.diff(sigmas**2, prepend=sigmas.new_zeros(1))
        scale, std = torch.ones_like(t), variances.sqrt()[index]
    close((scale - 1).reshape(-1, 1, 1, 1) * x, known["discretize_f"])
    close(std, known["discretize_G"])
