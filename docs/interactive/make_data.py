"""Data of the interactive pages, from models that are known exactly, into a script for each.

    python docs/interactive/make_data.py [noise samplers langevin layers posterior]

Random seeds are fixed; all five take about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from statistics import mean

import torch
from contourpy import contour_generator

from sde_score import samplers
from sde_score.discrete import HierarchicalVAE
from sde_score.models import TARGETS, GaussianMixture
from sde_score.report.scene import Scene
from sde_score.sdes import VP

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "examples" / "posterior"))

import plane  # noqa: E402  the spiral, its posterior and the distance of samples to it

DATA = {"kind": "points", "color": "ink", "name": "samples", "size": 1.5}
DENSITY = {"kind": "field", "color": "shade", "name": "density"}


def seeded(seed):
    """A generator of random numbers."""
    return torch.Generator().manual_seed(seed)


def square(limit, cells):
    """Centers of the cells of a square around 0, shape `(cells, cells, 2)`, rows upwards."""
    line = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 * limit - limit
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)


def density(model, t, limit, cells):
    """Density of x_t on a square."""
    points = square(limit, cells)
    return model.log_prob(points.reshape(-1, 2), t).exp().reshape(cells, cells)


def window(limit):
    """A square window around 0."""
    return [-limit, limit, -limit, limit]


def noise():
    """One distribution at 20 noise levels: density, score, samples, denoiser."""
    limit, levels = 3.2, torch.logspace(math.log10(0.05), math.log10(2.5), 20).double()
    model = GaussianMixture(*plane.spiral()[:2], "ve", plane.spiral()[2])
    times = model.sde.time_of_noise_ratio(levels)
    x0 = model.sample(240, generator=seeded(0))
    eps = torch.randn(x0.shape, generator=seeded(1), dtype=torch.float64)
    states = x0 + levels[:, None, None] * eps
    ends = torch.stack([model.denoise(x, t) for x, t in zip(states, times, strict=True)])
    arrows = square(limit, 13)
    scores = torch.stack([model.score(arrows.reshape(-1, 2), t) for t in times])
    steps = scores * levels[:, None, None] ** 2  # to the denoised mean
    tips = arrows.reshape(-1, 2) + 0.42 * steps / (1 + steps.norm(dim=-1, keepdim=True))
    over = ["level"]
    scene = Scene(
        "A distribution in the plane at a noise level that a slider chooses",
        [{"name": "level", "label": "Noise level", "start": 8, "play": True,
          "values": [f"σ = {level:.2f}" for level in levels.tolist()]}],
        [{"title": "density, samples, denoiser",
          "alt": "A spiral in the plane, blurred by the noise, with samples and a line from each "
                 "to the mean of the data that it could come from.",
          "window": window(limit), "layers": [
              {**DENSITY, "array": "density-{level}"},
              {"kind": "segments", "array": "samples", "to": "denoised", "over": over,
               "color": "learned", "name": "denoiser: from x to E[x₀ | x]", "size": 0.7},
              {**DATA, "array": "samples", "over": over}]},
         {"title": "score",
          "alt": "Arrows of the score, which point from everywhere to the nearest part of the "
                 "blurred spiral.",
          "window": window(limit), "layers": [
              {**DENSITY, "array": "density-{level}"},
              {"kind": "segments", "array": "grid", "to": "score", "color": "truth",
               "name": "score, direction and σ² × length up to a limit", "head": True},
          ]}],
        [{"label": "root of E |x₀ − E[x₀ | x]|², the error of the best denoiser:",
          "numbers": "error", "over": over, "digits": 3}],
    )  # fmt: skip
    scene.panels[1]["layers"][1]["over"] = over
    for index, (level, t) in enumerate(zip(levels.tolist(), times, strict=True)):
        scene.keep_field(f"density-{index}", density(model, t, limit, 72 if level < 0.3 else 40))
    scene.keep_places("samples", states)
    scene.keep_places("denoised", ends)
    scene.keep_places("grid", arrows.reshape(1, -1, 2).repeat(20, 1, 1))
    scene.keep_places("score", tips)
    scene.numbers["error"] = [
        error(model, level, t) for level, t in zip(levels, times, strict=True)
    ]
    return scene


def error(model, level, t):
    """Root mean squared error of the denoised mean, by a sum over the plane: the variance of x0
    less that of its mean given x_t."""
    limit, cells = 3 + 5 * float(level), 300
    points = square(limit, cells).reshape(-1, 2)
    mass = model.log_prob(points, t).exp() * (2 * limit / cells) ** 2
    means = model.denoise(points, t)
    data = torch.diagonal(plane.spiral()[1], dim1=1, dim2=2).sum(1) + plane.spiral()[
        0
    ].square().sum(1)
    second = (plane.spiral()[2] / plane.spiral()[2].sum() * data).sum()
    return float((second - (mass * means.square().sum(1)).sum()).sqrt())


BUDGETS = (5, 8, 12, 20, 30, 50)
ODE = ("ddim", "heun", "dpmpp-2m", "adams-time")
SDE = ("euler-maruyama", "ancestral", "dpmpp-2m-sde", "adams-sde")


def ways():
    """One noise through samplers of the ODE and of the SDE."""
    limit, shown, count = 3.6, 18, 2000
    target = TARGETS.create("mixture")
    model = target.diffused(VP())
    start = torch.randn(count, 2, generator=seeded(0), dtype=torch.float64)
    reference = target.sample(20 * count, seeded(1))
    flow = samplers.create("ode", rtol=1e-9, atol=1e-9)(model, start, progress=False)
    ends = {"kind": "points", "array": "flow", "color": "other", "hollow": True, "size": 4,
            "name": "ends of the exact flow"}  # fmt: skip
    chosen = [
        {"name": name, "label": text, "kind": "select", "values": list(names), "start": start}
        for name, text, names, start in (("ode", "ODE by", ODE, 2), ("sde", "SDE by", SDE, 0))
    ]
    panels = [
        {"title": title, "alt": alt, "window": window(limit), "layers": [
            {**DENSITY, "array": "density"}, *extra,
            {"kind": "paths", "array": f"{name}-{{{name}}}-{{budget}}", "along": "way",
             "color": color, "name": f"paths of the {name.upper()}"}]}
        for name, title, color, extra, alt in (
            ("ode", "probability-flow ODE", "learned", [ends],
             "Smooth paths from eighteen starts to the data; rings are the ends of the exact flow "
             "from the same starts."),
            ("sde", "reverse-time SDE", "truth", [],
             "Rough paths from the same eighteen starts to the data."))
    ]  # fmt: skip
    readouts = [
        {"label": "ODE: evaluations", "numbers": "nfe-ode", "over": ["ode", "budget"], "digits": 0},
        {"label": "rms distance to the exact ends", "numbers": "rms", "over": ["ode", "budget"],
         "digits": 3},
        {"label": "distance of 2000 samples to the data", "numbers": "far-ode",
         "over": ["ode", "budget"], "digits": 3},
        {"label": "SDE: evaluations", "numbers": "nfe-sde", "over": ["sde", "budget"], "digits": 0},
        {"label": "distance of 2000 samples to the data", "numbers": "far-sde",
         "over": ["sde", "budget"], "digits": 3},
        {"label": "of 2000 draws of the data", "numbers": "floor", "over": [], "digits": 3},
    ]  # fmt: skip
    scene = Scene(
        "One noise through samplers of the ODE and the SDE, step by step",
        [*chosen,
         {"name": "budget", "label": "Evaluations", "start": 2, "values": list(map(str, BUDGETS))},
         {"name": "way", "label": "On the way", "start": 50, "play": True,
          "values": [f"{2 * stop} %" for stop in range(51)]}],
        panels, readouts,
    )  # fmt: skip
    scene.keep_field("density", density(model, None, limit, 64))
    scene.keep_places("flow", flow[:shown])
    scene.numbers["floor"] = plane.distance(target.sample(count, seeded(2)), reference)
    for kind, names in (("ode", ODE), ("sde", SDE)):
        far, nfe, rms = [], [], []
        for place, name in enumerate(names):
            made = [samplers.create(name, nfe=budget) for budget in BUDGETS]
            runs = [each(model, start, seed=3, trajectory=True, progress=False) for each in made]
            for index, run in enumerate(runs):
                scene.keep_places(f"{kind}-{place}-{index}", run.states[:, :shown])
            last = [run.states[-1] for run in runs]
            nfe.append([each.count_nfe(model) for each in made])
            far.append([plane.distance(x, reference) for x in last])
            rms.append([float((x - flow).square().sum(1).mean().sqrt()) for x in last])
        scene.numbers |= {f"far-{kind}": far, f"nfe-{kind}": nfe}
        if kind == "ode":
            scene.numbers["rms"] = rms
    return scene


CHAINS, LADDER, EACH = 160, 12, 5


def langevin():
    """Chains on the data's own score, and on a ladder of noise levels, from one mode."""
    limit, steps = 4.4, LADDER * EACH
    model = GaussianMixture([[-2.5, -1.2], [2.5, 1.2]], 0.25, "ve", [0.2, 0.8])
    ladder = torch.logspace(math.log10(5), math.log10(0.05), LADDER).double()
    start = torch.tensor([-2.5, -1.2]) + 0.5 * torch.randn(
        CHAINS, 2, generator=seeded(0), dtype=torch.float64
    )
    still = chain(model, start, [0.05] * steps, [0.03] * steps, seeded(1))
    levels = ladder.repeat_interleave(EACH).tolist()
    moved = chain(model, start, levels, [0.3 * s**2 for s in levels], seeded(2))
    over = ["step"]
    dots = {**DATA, "size": 2, "name": "chains", "over": over}
    scene = Scene(
        "Langevin chains from one mode, without and with noise levels",
        [{"name": "step", "label": "Step", "play": True,
          "values": [str(step) for step in range(steps + 1)]}],
        [{"title": "Langevin on the data's score",
          "alt": "Chains that start in the left mode and never leave it.",
          "window": window(limit), "layers": [
              {**DENSITY, "array": "data"}, {**dots, "array": "still"}]},
         {"title": "annealed: noise from large to small",
          "alt": "Chains that start in the left mode, spread while the noise is large, and end in "
                 "both modes.",
          "window": window(limit), "layers": [
              {**DENSITY, "array": "ladder", "over": over}, {**dots, "array": "moved"}]}],
        [{"label": "share of chains in the right mode: Langevin", "numbers": "still", "over": over,
          "digits": 3},
         {"label": "annealed", "numbers": "moved", "over": over, "digits": 3},
         {"label": "exact", "numbers": "exact", "over": [], "digits": 1},
         {"label": "σ of the next step", "numbers": "sigma", "over": over, "digits": 2}],
    )  # fmt: skip
    shades = [density(model, model.sde.time_of_noise_ratio(s), limit, 48) for s in ladder]
    scene.keep_field("data", density(model, None, limit, 48))
    scene.keep_field("ladder", torch.stack([*shades, shades[-1]]))
    for name, states in (("still", still), ("moved", moved)):
        scene.keep_places(name, states)
        right = states @ torch.tensor([2.5, 1.2], dtype=torch.float64) > 0
        scene.numbers[name] = right.double().mean(1).tolist()
    scene.numbers |= {"exact": 0.8, "sigma": [*levels, levels[-1]]}
    return scene


def chain(model, x, levels, step_sizes, generator):
    """States of x + h score(x) + sqrt(2 h) z at noise levels, the start first."""
    states = [x]
    for level, h in zip(levels, step_sizes, strict=True):
        t = model.sde.time_of_noise_ratio(torch.tensor(level, dtype=torch.float64))
        z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = x + h * model.score(x, t) + math.sqrt(2 * h) * z
        states.append(x)
    return torch.stack(states)


LAYERS = (5, 10, 20, 40)


def layers():
    """Hierarchical VAEs of 5 to 40 layers: encoder, decoder, and what each layer costs."""
    limit, shown, sde = 4.0, 80, VP()
    target = TARGETS.create("mixture")
    model = target.diffused(sde)
    x0 = target.sample(2000, seeded(0))
    over = ["count", "layer"]
    dots = {**DATA, "size": 2, "over": ["layer"]}
    scene = Scene(
        "A hierarchical VAE, layer by layer",
        [{"name": "count", "label": "Layers", "values": list(map(str, LAYERS)), "start": 1},
         {"name": "layer", "label": "From data to noise", "start": 20, "play": True,
          "values": [f"{2.5 * stop:.0f} %" for stop in range(41)]}],
        [{"title": "encoder: up to this layer",
          "alt": "Samples of the data with the noise of the layer, over the exact density.",
          "window": window(limit), "layers": [
              {**DENSITY, "array": "density-{count}", "over": ["layer"]},
              {**dots, "array": "up-{count}", "name": "encoder's samples"}]},
         {"title": "decoder: down to this layer",
          "alt": "Samples of the decoder at the layer, which started as pure noise, over the exact "
                 "density.",
          "window": window(limit), "layers": [
              {**DENSITY, "array": "density-{count}", "over": ["layer"]},
              {**dots, "array": "down-{count}", "name": "decoder's samples", "color": "learned"}]},
         {"title": "cost of the layers",
          "alt": "Bars of the cost of each layer but the first, from data to noise; that of the "
                 "present one stands out.",
          "window": [0, 1, 0, 1.05], "layers": [
              {"kind": "bars", "numbers": "bars", "over": ["count"], "along": "layer",
               "color": "shade"}]}],
        [{"label": "layer", "numbers": "number", "over": over, "digits": 0},
         {"label": "σ / α", "numbers": "ratio", "over": over, "digits": 3},
         {"label": "its cost in nats", "numbers": "cost", "over": over, "digits": 3},
         {"label": "bound of all layers", "numbers": "bound", "over": ["count"], "digits": 3},
         {"label": "exact −E log p(x₀)", "numbers": "code", "over": [], "digits": 3}],
    )  # fmt: skip
    names = ("bars", "number", "ratio", "cost", "bound")
    scene.numbers |= {name: [] for name in names} | {"code": -float(target.log_prob(x0).mean())}
    for index, n in enumerate(LAYERS):
        vae = HierarchicalVAE.from_sde(sde, n, grid="log_snr(end=1e-3)")
        generator = seeded(1)
        up, down = [x0[:shown]], [vae.decoder.prior((shown, 2), torch.float64).sample(generator)]
        for layer in range(1, n + 1):
            up.append(vae.encoder.step(up[-1], layer).sample(generator))
        for layer in range(n, 1, -1):
            down.append(vae.decoder.step(model, down[-1], layer).sample(generator))
        down.append(vae.decoder.data(model, down[-1]).sample(generator))
        shades = [density(model, t, limit, 32) for t in (None, *vae.times)]
        scene.keep_field(f"density-{index}", torch.stack(shades))
        scene.keep_places(f"up-{index}", torch.stack(up))
        scene.keep_places(f"down-{index}", torch.stack(down[::-1]))
        found = vae.elbo(model, x0, seed=0)
        costs = found.layers.mean(1).tolist()
        kept = {
            "bars": [0.0, *(cost / max(costs) for cost in costs)],
            "number": list(range(n + 1)),
            "ratio": [0.0, *sde.noise_ratio(vae.times).tolist()],
            "cost": [0.0, float(found.reconstruction.mean()), *costs],
            "bound": float(found.nats.mean()),
        }
        for name, value in kept.items():
            scene.numbers[name].append(value)
    return scene


METHODS = ("twisted", "mcg-diff", "mmps", "tmpd", "pigdm", "ddrm", "diffpir", "daps", "dps",
           "replacement")  # fmt: skip
SEEN = (-1.2, -0.8, -0.4, 0.0, 0.4, 0.8, 1.2)


def posteriors():
    """What is measured of a point on a spiral, and its posterior by each method."""
    limit, shown, count = 2.5, 160, 1000
    prior = plane.mixture(*plane.spiral())
    chosen = [
        {
            "name": "y",
            "label": "Measured y",
            "start": 2,
            "play": True,
            "values": [f"{y:.1f}" for y in SEEN],
        },
        {"name": "method", "label": "Method", "kind": "select", "values": list(METHODS)},
    ]
    shared = [{**DENSITY, "array": "prior", "name": "prior"},
              {"kind": "lines", "array": "band-{y}", "color": "faint", "name": "what y allows"},
              {"kind": "lines", "array": "contours-{y}", "color": "other", "size": 1.6,
               "name": "exact posterior"}]  # fmt: skip
    scene = Scene(
        "The posterior of a point on a spiral of which one number was measured",
        chosen,
        [{"title": "exact", "window": window(limit),
          "alt": "The spiral, the band that the measurement allows, contours of the posterior "
                 "where they meet, and exact samples inside of them.",
          "layers": [*shared, {**DATA, "array": "exact-{y}"}]},
         {"title": "by the method", "window": window(limit),
          "alt": "The same contours with the samples of the method.",
          "layers": [*shared, {**DATA, "array": "drawn-{y}", "over": ["method"]}]}],
        [{"label": "distance of 1000 samples to the posterior", "numbers": "far",
          "over": ["y", "method"], "digits": 3},
         {"label": "of 1000 exact samples, on average", "numbers": "floor", "over": ["y"],
          "digits": 3}],
    )  # fmt: skip
    scene.keep_field("prior", density(prior, None, limit, 88))
    scene.numbers |= {"far": [], "floor": []}
    for index, y in enumerate(SEEN):
        plane.Y = y
        truth = plane.mixture(*plane.given(*plane.spiral()))
        reference = truth.sample(20 * count, generator=seeded(1))
        exact = truth.sample(count, generator=seeded(0))
        found = [plane.draw(name, prior, truth, count)[0] for name in METHODS]
        scene.keep_places(f"exact-{index}", exact[:shown])
        scene.keep_places(f"drawn-{index}", torch.stack([x[:shown] for x in found]).clamp(-3, 3))
        scene.keep_places(f"contours-{index}", contours(truth, limit))
        scene.keep_places(f"band-{index}", band(y, limit))
        scene.numbers["far"].append([plane.distance(x, reference) for x in found])
        draws = [truth.sample(count, generator=seeded(2 + i)) for i in range(10)]
        scene.numbers["floor"].append(mean([plane.distance(x, reference) for x in draws]))
    return scene


def contours(model, limit):
    """Lines at a hundredth and at three tenths of the largest density, shape `(n, 2)`, NaN between
    them."""
    values = density(model, None, limit, 240)
    line = square(limit, 240)[0, :, 0].numpy()
    drawn = contour_generator(line, line, values.numpy())
    kept = []
    for share in (0.01, 0.3):
        for each in drawn.lines(share * float(values.max())):
            kept += [torch.as_tensor(each[:: 1 + len(each) // 80]), torch.full((1, 2), math.nan)]
    return torch.cat(kept)


def band(y, limit):
    """The two lines a . x = y +- 2 std."""
    across = torch.stack([-plane.A[1], plane.A[0]])
    ends = [plane.A * (y + side * 2 * plane.STD) + end * across
            for side in (-1, 1) for end in (-3 * limit, 3 * limit)]  # fmt: skip
    gap = torch.full((2,), math.nan, dtype=torch.float64)
    return torch.stack([*ends[:2], gap, *ends[2:]])


SCENES = {"noise": noise, "samplers": ways, "langevin": langevin, "layers": layers,
          "posterior": posteriors}  # fmt: skip


def main():
    """Write the scripts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(SCENES))
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        text = SCENES[name]().script(name)
        (HERE / f"{name}.js").write_text(text, encoding="utf-8")
        print(f"{name}.js: {len(text) // 1024} kB")


if __name__ == "__main__":
    main()
