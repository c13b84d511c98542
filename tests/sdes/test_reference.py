"""Numbers recorded from the public score-SDE code: VP, sub-VP and VE agree with it."""

from __future__ import annotations

import pytest
import torch

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
    sde, n, known, _ = recorded
    x, t = known["x"], known["t"]
    if isinstance(sde, SubVP):
        scale, std = 1 + sde.drift_rate(t) / n, sde.diffusion(t) / n**0.5
    else:
        chain, index = sde.discretize(n), (t * (n - 1)).long()
        scale, std = chain.scales[index], chain.stds[index]
    close((scale - 1).reshape(-1, 1, 1, 1) * x, known["discretize_f"])
    close(std, known["discretize_G"])


def test_chain_tables(recorded):
    sde, n, known, _ = recorded
    chain = sde.discretize(n)
    if isinstance(sde, VP):
        close(chain.alphas, known["sqrt_alphas_cumprod"])
        close(chain.sigmas, known["sqrt_1m_alphas_cumprod"])
        close(chain.stds**2, known["discrete_betas"])
    elif isinstance(sde, VE):
        close(chain.sigmas, known["discrete_sigmas"])
