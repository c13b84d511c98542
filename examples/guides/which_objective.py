"""Objectives at work: the error in the score against processor time, and what gradients are worth.

    python examples/guides/which_objective.py

The data are a mixture of three Gaussians in 16 dimensions, whose score is known under any noise.
Equal networks learn from equal batches; the error E |s - s*|^2 / E |s*|^2 is on fresh data. At one
noise level, 0.1, objectives that add noise are held against the score of the noisy data, all others
against that of the clean ones. Last, how many examples have as much signal as noise in their
gradient: the trace of its covariance over its squared mean, at one network for all.
"""

import time

import drawing
import torch

from sde_score import VE, VP, EnergyModel, ScoreModel, nn, objectives
from sde_score.models import TARGETS

DIM, NOISE, BATCH = 16, 0.1, 128
MEANS = torch.randn(3, DIM, generator=torch.Generator().manual_seed(0)).tolist()
COVARIANCES = (0.25 * torch.eye(DIM)).expand(3, DIM, DIM).tolist()
TARGET = TARGETS.create("mixture", means=MEANS, covariances=COVARIANCES, weights=[0.5, 0.3, 0.2])
COLORS = {
    "explicit": drawing.FAINT,
    "denoising": drawing.ORANGE,
    "denoising-control": drawing.PINK,
    "hutchinson": drawing.BLUE,
    "sliced": drawing.PURPLE,
    "finite-difference": drawing.GREEN,
    "implicit": drawing.INK,
    "contrastive-divergence": drawing.GREEN,
    "persistent": drawing.PURPLE,
    "noise-contrastive": drawing.INK,
    "energy-discrepancy": drawing.PINK,
}
SCORES = list(COLORS)[:7]
ENERGIES = ["denoising", "hutchinson", *list(COLORS)[7:]]
OPTIONS = {"persistent": "(buffer_size=1024)"}
EVERY = ["explicit", "denoising", "denoising-control", "hutchinson", "sliced"]
NOISY = ("denoising", "denoising-control")
LOG_SNRS, SIGMAS = (-4, -2, 0, 2, 4, 6), (0.03, 0.1, 0.3, 1.0)


def model_of(kind, seed, sigma=NOISE):
    """A network for one noise level: its answer is a score, or an energy."""
    torch.manual_seed(seed)
    network = nn.create("mlp(width=64, depth=2)", event_shape=(DIM,))
    return kind(network, VE(sigma, 1.01 * sigma), prediction="scaled_score")


def trainer(spec, model, seed):
    """A function that takes one step of training with the model, or only its gradient."""
    objective = objectives.create(spec, **({"target": TARGET} if "explicit" in spec else {}))
    generator = torch.Generator().manual_seed(seed)
    pool = TARGET.sample(64 * BATCH, generator=generator).float()
    parameters, batches = list(model.parameters()), pool.split(BATCH)
    if stateful := isinstance(objective, objectives.StatefulObjective):
        objective.setup(pool)
        parameters += list(objective.parameters())
    adam = torch.optim.Adam(parameters, 2e-3)

    def step(number, moves=True):
        adam.zero_grad()
        losses = objective(model, batches[number % 64], generator=generator)
        losses.mean().backward(inputs=parameters)
        if moves:
            adam.step()
        if stateful:
            objective.finish_step()

    return step


def error(model, truth, t):
    """Relative error of the score at the time t, against a model of the truth on its SDE."""
    x = truth.sample(2000, t=t, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        gap = model.score(x.float(), min(t, model.sde.t_max)) - truth.score(x, t)
    return float(gap.square().mean() / truth.score(x, t).square().mean())


def spend(step, seconds, spent=0.0, number=0):
    """Train until processor seconds are spent: these, and the number of steps."""
    while spent < seconds:
        began = time.process_time()
        step(number)
        spent, number = spent + time.process_time() - began, number + 1
    return spent, number


def curve(name, kind, seconds, seed):
    """Processor seconds of training, errors there, and milliseconds of a step."""
    model = model_of(kind, seed)
    step = trainer(name + OPTIONS.get(name, ""), model, seed)
    truth = TARGET.diffused(model.sde if name in NOISY else VE(1e-6, 1.01e-6))
    marks, found, done = [seconds * 2.0**-k for k in range(5, -1, -1)], [], (0.0, 0)
    for mark in marks:
        done = spend(step, mark, *done)
        found.append(error(model, truth, truth.sde.t_min))
    return marks, found, 1e3 * done[0] / done[1]


def at_all_levels(name, seconds, seed):
    """Errors of a network of all noise levels, at each of LOG_SNRS."""
    torch.manual_seed(seed)
    network = nn.create("mlp(width=64, depth=2)", event_shape=(DIM,))
    model = ScoreModel(network, VP(), "noise")
    spend(trainer(f"{name}(time_sampler='uniform')", model, seed), seconds)
    times = [float(model.sde.time_of_log_snr(level)) for level in LOG_SNRS]
    return [error(model, TARGET.diffused(model.sde), t) for t in times]


def worth(name, sigma, draws, state):
    """Examples whose gradient has as much signal as noise, at one and the same network."""
    model = model_of(ScoreModel, 0, sigma)
    model.load_state_dict(state)
    step, rows = trainer(name, model, 0), []
    for number in range(2 * draws):
        step(number, moves=False)
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    gradients = torch.stack(rows[draws:]).double()  # the first half fits control variates
    noise = gradients.var(0).sum()
    return float(BATCH * noise / (gradients.mean(0).square().sum() - noise / draws))


def draw(panel, at, runs, name):
    """The mean of runs with its standard error: drawn, and returned at the end of each."""
    values = torch.tensor(runs)
    mean, error = values.mean(0), values.std(0) / len(runs) ** 0.5
    panel.errorbar(at, mean, error, color=COLORS[name], label=name, marker="o", markersize=3)
    return [f"{m:.4f} ± {e:.4f}" for m, e in zip(mean.tolist(), error.tolist(), strict=True)]


def main():
    """Train, measure, print and draw."""
    options = drawing.options(__file__, __doc__, seconds=2.0, seeds=3, draws=100)
    figure, axes = drawing.panels(
        "A network that answers a score, at one small noise level",
        "A network that is an energy, at one small noise level",
        f"All noise levels at once, {options.seconds:g} seconds",
        "What a gradient is worth",
        rows=2,
    )
    seeds = range(options.seeds)
    for panel, kind, names in ((axes[0], ScoreModel, SCORES), (axes[1], EnergyModel, ENERGIES)):
        for name in names:
            runs = [curve(name, kind, options.seconds, seed) for seed in seeds]
            said = draw(panel, runs[0][0], [run[1] for run in runs], name)
            ms = sum(run[2] for run in runs) / len(runs)
            print(f"{kind.__name__:12}{name:24}{said[-1]}{ms:8.2f} ms", flush=True)
        panel.set(xscale="log", yscale="log", xlabel="processor seconds of training")
        drawing.ticks(panel.xaxis, runs[0][0])
    for name in EVERY:
        runs = [at_all_levels(name, options.seconds, seed) for seed in seeds]
        print(f"all levels  {name:24}", "  ".join(draw(axes[2], LOG_SNRS, runs, name)), flush=True)
    axes[2].set(yscale="log", xlabel="log-SNR")
    for panel in axes[:3]:
        panel.set(ylabel="relative squared error of the score")
    model = model_of(ScoreModel, 0)
    spend(trainer("implicit", model, 0), 1.0)
    for name in ("denoising", "denoising-control", "implicit", "hutchinson", "sliced"):
        sigmas = SIGMAS if name in NOISY else [NOISE]
        counts = [worth(name, sigma, options.draws, model.state_dict()) for sigma in sigmas]
        print(
            f"{name:24}", *(f"{sigma}: {n:.0f} " for sigma, n in zip(sigmas, counts, strict=True))
        )
        counts *= len(SIGMAS) // len(counts)  # what learns from clean data draws a level line
        style = {"marker": "o", "markersize": 3} if name in NOISY else {"linestyle": "--"}
        axes[3].loglog(SIGMAS, counts, color=COLORS[name], label=name, **style)
    axes[3].set(xlabel="noise that denoising adds", ylabel="examples with as much signal as noise")
    drawing.ticks(axes[3].xaxis, SIGMAS)
    drawing.save(figure, axes, options.out)


if __name__ == "__main__":
    main()
