"""Trajectories of other implementations of multistep methods through ours."""

from __future__ import annotations

import pytest
import torch

from sde_score import samplers
from sde_score.samplers import Multistep
from sde_score.sdes import EDM, VP

DIFFUSERS = {
    "dpmpp_1m": {"spec": "dpmpp-2m", "order": 1},
    "dpm_1m": {"spec": "dpm-2m", "order": 1},
    "dpmpp_2m_midpoint": {"spec": "dpmpp-2m"},
    "dpm_2m_midpoint": {"spec": "dpm-2m"},
    "dpmpp_2m_heun": {"spec": "dpmpp-2m", "rule": "exact"},
    "dpm_2m_heun": {"spec": "dpm-2m", "rule": "exact"},
    "dpmpp_3m": {"spec": "dpmpp-3m-published"},
    "dpm_3m": {"spec": "dpm-3m", "rule": "midpoint-halved"},
    "sde_dpmpp_1m_midpoint": {"spec": "dpmpp-2m-sde", "order": 1},
    "sde_dpmpp_2m_midpoint": {"spec": "dpmpp-2m-sde"},
    "sde_dpmpp_2m_heun": {"spec": "dpmpp-2m-sde", "rule": "exact"},
    "unip_2_bh2": {"spec": "unipc", "order": 2, "corrector": 0},
    **{
        f"unipc_{order}_{variant}{of_noise}": {
            "spec": "unipc",
            "order": order,
            "corrector": order,
            "rule": {"bh1": "arrival", "bh2": "midpoint"}[variant],
            "prediction": "noise" if of_noise else "data",
        }
        for order in (1, 2, 3)
        for variant, of_noise in (("bh1", ""), ("bh2", ""), ("bh2", "_eps"))
    },
    **{
        f"deis_{order}": {"spec": "deis", "order": order, "coordinate": "log_snr"}
        for order in (1, 2, 3)
    },
}
"""Method by method, what it is here."""


TAPERED = [
    m for m in DIFFUSERS if m[-3:] != "eps" and m[-2:] != "1m" and m[:3] not in ("sde", "uni")
]
TAPERED = [m for m in TAPERED if m not in ("deis_1", "deis_2")]
TAPERED += [m for m in DIFFUSERS if m.startswith("unipc") and not m.endswith("eps")]
TO_ZERO = ["dpmpp_2m_midpoint_lof", "dpmpp_2m_heun_lof", "dpmpp_3m_lof", "unipc_1_bh2_lof",
           "unipc_2_bh2_lof", "unipc_3_bh2_lof", "sde_dpmpp_1m_midpoint", "sde_dpmpp_2m_midpoint",
           "sde_dpmpp_2m_heun"]  # fmt: skip
CASES = [
    f"{method}.{grid}"
    for grid in ("karras", "log", "linear_t")
    for method in [*DIFFUSERS, *(f"{m}_lof" for m in TAPERED)]
] + [f"{method}.log_to0" for method in TO_ZERO]


class Preserving(VP):
    """The variance-preserving diffusion over noise ratios: alpha = 1 / sqrt(1 + t^2)."""

    t_min, t_max = 1e-6, 1e3

    def _alpha(self, t):
        return torch.rsqrt(1 + torch.as_tensor(t).double() ** 2)

    def alpha(self, t):
        return self._alpha(t)

    def sigma(self, t):
        return t * self._alpha(t)

    def log_snr(self, t):
        return -2 * torch.log(torch.as_tensor(t).double())

    def time_of_log_snr(self, log_snr):
        return torch.exp(-0.5 * log_snr)


@pytest.mark.parametrize("case", CASES)
def test_diffusers(case, reference, stored_mixture, stored, table, close):
    """It tapers below fifteen steps, if at all; UniPC always."""
    arrays, _ = reference("samplers_diffusers_multistep")
    method, grid = case.split(".")
    sigmas = arrays[f"grid.{grid}"]
    denoise = bool(sigmas[-1] == 0)
    sampler = samplers.create(
        **DIFFUSERS[method.removesuffix("_lof")],
        steps=len(sigmas) - 1,
        grid=table(sigmas[:-1] if denoise else sigmas),
        denoise=denoise,
        taper=method.endswith("_lof") and (len(sigmas) <= 15 or "unipc" in method),
    )
    model = stored_mixture(arrays, Preserving())
    draws = arrays.get(f"{case}.noise", torch.zeros(0))
    got = sampler(model, arrays["x_start"], noise=stored(draws), progress=False)
    close(got, arrays[f"{case}.result"])


@pytest.mark.parametrize("grid", ["karras", "log", "linear_t"])
def test_third_order_as_it_should_be(grid, reference, stored_mixture, table, close):
    arrays, _ = reference("samplers_diffusers_multistep")
    sigmas = arrays[f"grid.{grid}"]
    sampler = samplers.create("dpmpp-3m", steps=len(sigmas) - 1, grid=table(sigmas), denoise=False)
    got = sampler(stored_mixture(arrays, Preserving()), arrays["x_start"], progress=False)
    close(got, arrays[f"own.dpmpp_3m_quadratic.{grid}"])


K_DIFFUSION = {
    "dpmpp_2m": {"spec": "dpmpp-2m"},
    "dpmpp_2m_open": {"spec": "dpmpp-2m"},
    "lms_4": {"spec": "sigma-ab", "order": 4, "final_order": 4},
    "lms_4_open": {"spec": "sigma-ab", "order": 4},
    "lms_2": {"spec": "sigma-ab", "order": 2, "final_order": 2},
    "lms_2_open": {"spec": "sigma-ab", "order": 2},
    **{
        f"{case}_eta{eta:g}": fields | {"eta": eta**0.5}
        for eta in (0.0, 0.5, 1.0)
        for case, fields in {
            "dpmpp_2m_sde_midpoint": {"spec": "dpmpp-2m-sde"},
            "dpmpp_2m_sde_heun": {"spec": "dpmpp-2m-sde", "rule": "exact"},
            "dpmpp_3m_sde": {"spec": "dpmpp-3m-sde", "rule": "halved"},
        }.items()
    },
}
"""Their eta is the square of ours."""


@pytest.mark.parametrize("case", K_DIFFUSION)
def test_k_diffusion(case, reference, stored_mixture, recorder, stored, table, close):
    arrays, description = reference("samplers_k_diffusion")
    sigmas = arrays["sigmas_open"]
    denoise = not case.endswith("_open")
    fields = dict(K_DIFFUSION[case])
    if case == "dpmpp_2m_sde_heun_eta0":  # stored with the other rule
        fields["rule"] = "midpoint"
    spread = description["params"]["cases"][case].get("s_noise", 1.0)
    sampler = samplers.create(
        **fields,
        steps=len(sigmas) - (not denoise),
        grid=table(sigmas),
        denoise=denoise,
    )
    model = recorder(stored_mixture(arrays, EDM(float(sigmas[-1]), float(sigmas[0]))))
    draws = spread * arrays.get(f"{case}.noise", torch.zeros(0))
    got = sampler(model, arrays["x_start"], noise=stored(draws), progress=False)
    close(got, arrays[f"{case}.result"])
    close(torch.stack(model.states), arrays[f"{case}.net_x"])


SOLVERS = {
    (1, "dpmsolver"): "exact",
    (2, "dpmsolver"): "midpoint",
    (2, "taylor"): "exact",
    (3, "dpmsolver"): "midpoint-halved",
}


@pytest.mark.parametrize("skip", ["time_uniform.7", "time_uniform.12", "logSNR.7", "logSNR.12",
                                  "time_quadratic.12"])  # fmt: skip
@pytest.mark.parametrize(("order", "solver"), SOLVERS)
@pytest.mark.parametrize("kind", ["dpmsolver", "dpmsolver++"])
def test_dpm_solver(kind, order, solver, skip, reference, stored_mixture, table, close):
    """The original code, on its own schedule; it tapers below ten steps."""
    arrays, _ = reference("samplers_dpm_solver")
    case = f"{kind}.multistep.{order}.{solver}.{skip}"
    times = arrays[f"{case}.net_t"]
    steps = len(times)
    sampler = Multistep(
        prediction="data" if "++" in kind else "noise",
        coordinate="log_snr",
        order=order,
        rule=SOLVERS[order, solver],
        steps=steps,
        denoise=False,
        taper=steps < 10,
        grid=table(torch.cat([times, times.new_tensor([1e-3])])),
    )
    model = stored_mixture(arrays, VP(beta_min=0.1, beta_max=20.0))
    close(sampler(model, arrays["x_start"], progress=False), arrays[f"{case}.result"])
