"""Trajectories of other implementations of one-step methods through ours."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from sde_score.samplers import GRIDS, RungeKutta, Singlestep, create
from sde_score.samplers.fixed_step.butcher import second_order
from sde_score.samplers.published import constructors
from sde_score.sdes import EDM, SDE, VP

CHURN = {"churn": 4.0, "churn_min": 0.05, "churn_max": 15.0, "churn_noise": 1.003}
K_DIFFUSION = {
    "euler": {"method": "euler"},
    "euler_open": {"method": "euler"},
    "euler_churn": {"method": "euler", **CHURN},
    "euler_ancestral_eta1": {"method": "euler", "ancestral": 1.0},
    "euler_ancestral_eta0.5": {"method": "euler", "ancestral": 0.5},
    "heun": {"spec": "heun"},
    "heun_open": {"spec": "heun"},
    "heun_churn": {"spec": "heun", **CHURN},
    "dpm_2": {"spec": "dpm-2s"},
    "dpm_2_open": {"spec": "dpm-2s"},
    "dpm_2_churn": {"spec": "dpm-2s", **CHURN},
    "dpm_2_ancestral_eta1": {"spec": "dpm-2s-ancestral"},
    "dpm_2_ancestral_eta0.5": {"spec": "dpm-2s-ancestral", "ancestral": 0.5},
    "dpmpp_2s_eta0": {"spec": "dpmpp-2s"},
    "dpmpp_2s_ancestral_eta1": {"spec": "dpmpp-2s-ancestral"},
    "dpmpp_2s_ancestral_eta0.5": {"spec": "dpmpp-2s-ancestral", "ancestral": 0.5},
    "dpmpp_sde_eta0": {"spec": "dpmpp-sde", "eta": 0.0},
    "dpmpp_sde_eta1": {"spec": "dpmpp-sde"},
}
"""Case by case, what it is here."""


def of_pieces(draws, sigmas):
    """Of a step's two independent draws, for its stage and its end, the pieces of one motion.

    The stage is at the geometric mean of the ends. On the data form the noise at s has variance
    s^2 - s^4 / s_0^2, and what the stage has of it comes to the end times (s_1 / s)^2.
    """
    pieces = []
    for first, last, stage, end in zip(sigmas, sigmas[1:], draws[::2], draws[1::2], strict=False):
        middle = (first * last).sqrt()
        in_stage, in_end, in_rest = (
            (b**2 - b**4 / a**2).sqrt() for a, b in ((first, middle), (first, last), (middle, last))
        )
        rest = (in_end * end - (last / middle) ** 2 * in_stage * stage) / in_rest
        pieces += [stage, rest]
    return torch.stack(pieces)


@pytest.mark.parametrize("case", K_DIFFUSION)
def test_k_diffusion(case, reference, stored_mixture, recorder, stored, table, close):
    arrays, description = reference("samplers_k_diffusion")
    given = description["params"]["cases"][case]
    sigmas, denoise = arrays["sigmas_open"], not case.endswith("_open")
    draws = arrays.get(f"{case}.noise", torch.zeros(0))
    if "churn" in case:  # theirs draws at every step, ours only where it churns
        draws = draws[:-1][((sigmas >= 0.05) & (sigmas <= 15.0))[: len(draws) - 1]]
    if "eta0.5" in case:
        draws = draws * given["s_noise"]
    if case == "dpmpp_sde_eta1":
        draws = of_pieces(draws, sigmas)
    fields = {**K_DIFFUSION[case], "steps": len(sigmas) - (not denoise), "denoise": denoise}
    row = constructors(RungeKutta)[fields.pop("spec")] if "spec" in fields else RungeKutta
    sampler = row(grid=table(sigmas), **fields)
    model = recorder(stored_mixture(arrays, EDM(float(sigmas[-1]), float(sigmas[0]))))
    left = stored(draws)
    got = sampler(model, arrays["x_start"], noise=left, progress=False)
    close(got, arrays[f"{case}.result"])
    close(torch.stack(model.states), arrays[f"{case}.net_x"])
    close(torch.tensor(model.seen_times, dtype=torch.float64), arrays[f"{case}.net_sigma"])
    with pytest.raises(StopIteration):
        left()


DPM_SOLVER = [
    f"{prediction}.{kind}.{order}.{family}.{skip}"
    for prediction in ("dpmsolver", "dpmsolver++")
    for kind in ("singlestep_fixed", "singlestep")
    for order, family in product((1, 2, 3), ("dpmsolver", "taylor"))
    for skip in ("logSNR.12", "logSNR.7", "time_uniform.12", "time_uniform.7", "time_quadratic.12")
    if order > 1 or family == "dpmsolver"
]
FIXED = {"euler": (1, "dpmsolver"), "midpoint": (2, "dpmsolver"), "half-line": (2, "taylor"),
         "heun-3": (3, "dpmsolver"), "thirds-parabola": (3, "taylor")}  # fmt: skip


@pytest.mark.parametrize("case", DPM_SOLVER)
def test_dpm_solver(case, reference, stored_mixture, recorder, close):
    """The original code on all its grids: orders, times of all evaluations, and result."""
    arrays, description = reference("samplers_dpm_solver")
    prediction, kind, order, family, skip, count = case.split(".")
    rule = {"logSNR": "log_snr", "time_uniform": "uniform", "time_quadratic": "polynomial"}[skip]
    given = description["params"]
    sampler = Singlestep(
        steps=int(count),
        order=int(order),
        family=family,
        fixed=kind == "singlestep_fixed",
        stages="between" if skip == "logSNR" else "grid",
        grid=GRIDS.create(rule, end=given["t_end"]),
        prediction="data" if prediction.endswith("++") else "noise",
        denoise=False,
    )
    model = recorder(stored_mixture(arrays, VP(given["beta_0"], given["beta_1"])))
    got = sampler(model, arrays["x_start"], progress=False)
    close(got, arrays[f"{case}.result"])
    close(torch.tensor(model.seen_times, dtype=torch.float64), arrays[f"{case}.net_t"])


@pytest.mark.parametrize("prediction", ["noise", "data"])
@pytest.mark.parametrize("method", FIXED)
def test_fixed_singlestep_is_runge_kutta_in_log_snr(method, prediction, reference, stored_mixture):
    arrays, _ = reference("samplers_dpm_solver")
    order, family = FIXED[method]
    model, common = stored_mixture(arrays, VP()), {"grid": "log_snr", "prediction": prediction}
    one = Singlestep(steps=4 * order + 1, order=order, family=family, fixed=True, **common)
    other = RungeKutta(steps=5, coordinate="log_snr", method=method, **common)
    runs = [sampler(model, arrays["x_start"], progress=False) for sampler in (one, other)]
    torch.testing.assert_close(*runs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [10, 11, 12])
def test_dpm_fast_of_k_diffusion(count, reference, stored_mixture, recorder, close):
    arrays, description = reference("samplers_k_diffusion")
    case = f"dpm_fast_{count}"
    given = description["params"]["cases"][case]
    sampler = create("dpm-fast", steps=count, denoise=False)
    sde = EDM(given["sigma_min"], given["sigma_max"])
    model = recorder(stored_mixture(arrays, sde))
    got = sampler(model, arrays["x_start"], progress=False)
    close(got, arrays[f"{case}.result"])
    close(torch.tensor(model.seen_times, dtype=torch.float64), arrays[f"{case}.net_sigma"])
    assert sampler.count_nfe() == count


class RootVE(SDE):
    """EDM's VE: sigma = sqrt(t)."""

    t_min, t_max = 1e-4, 1e4

    def alpha(self, t):
        return torch.ones_like(torch.as_tensor(t))

    def sigma(self, t):
        return torch.as_tensor(t).sqrt()


ABLATION = {
    "vp": (VP(0.1, 20.0), lambda u: 1 + u * (1e-3 - 1)),
    "ve": (RootVE(), lambda u: 1e4 * (0.02 / 100) ** (2 * u)),
    "edm": (EDM(), lambda u: (80 ** (1 / 7) + u * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7),
}


@pytest.mark.parametrize("case", ["vp_euler", "vp_heun", "vp_heun_churn", "ve_euler", "ve_heun",
                                  "ve_heun_churn", "edm_linear_heun_alpha"])  # fmt: skip
def test_ablation_of_edm(case, reference, stored_mixture, recorder, stored, table, close):
    """Plain steps on dx/dt in each diffusion's own time; theirs end by one to t = 0."""
    arrays, description = reference("samplers_edm")
    given = description["params"]["ablation_sampler"][case]
    sde, place = ABLATION[given["discretization"]]
    steps = given["num_steps"] - 1
    times = place(torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    names = {"S_churn": "churn", "S_min": "churn_min", "S_max": "churn_max",
             "S_noise": "churn_noise"}  # fmt: skip
    churn = {ours: given[theirs] for theirs, ours in names.items() if theirs in given}
    if churn:  # their share of churn counts the step to zero
        churn["churn"] *= steps / given["num_steps"]
    method = second_order(given["alpha"]) if "alpha" in given else given["solver"]
    sampler = RungeKutta(steps=steps, grid=table(times), denoise=False, prediction="derivative",
                         coordinate="time", method=method, **churn)  # fmt: skip
    model = recorder(stored_mixture(arrays, sde))
    draws = arrays.get(f"{case}.noise", torch.zeros(0))
    if churn:  # theirs draws at every step, ours only where it churns
        levels = sde.noise_ratio(times)
        draws = draws[(levels >= given["S_min"]) & (levels <= given["S_max"])]
    start = arrays["latents"] * sde.sigma(times[0])
    x = sampler(model, start, noise=stored(draws), progress=False)
    end = x - times[-1] * model.velocity(x, times[-1])
    seen = torch.tensor(model.seen_times, dtype=torch.float64)
    scaled = torch.stack(model.states) / sde.alpha(seen)[:, None, None]
    churned = case == "vp_heun_churn"  # theirs churns once more before its step to 0
    same = slice(len(seen) - churned)
    close(sde.noise_ratio(seen)[same], arrays[f"{case}.net_sigma"][same])
    close(scaled[same], arrays[f"{case}.net_x"][same])
    if not churned:
        close(end, arrays[f"{case}.result"])
