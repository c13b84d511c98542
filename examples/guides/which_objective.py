"""Objectives at work: the error in the score against processor time, and what gradients are worth.

    python examples/guides/which_objective.py

writes what it measures to a table beside the picture, which `--read` draws again.
The data are a mixture of three Gaussians in 16 dimensions, whose score is known under any noise.
Equal networks learn from equal batches; the error E |s - s*|^2 / E |s*|^2 is on fresh data. At one
noise level, 0.1, objectives that add noise are held against the score of the noisy data, all others
against that of the clean ones. Last, how many examples have as much signal as noise in their
gradient: the trace of its covariance over its squared mean, at one network for all.
"""

import time
from pathlib import Path

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


def at_one_level(name, kind, seconds, seed):
    """Milliseconds of a step, and the error once processor seconds are spent."""
    model = model_of(kind, seed)
    spent, number = spend(trainer(name + OPTIONS.get(name, ""), model, seed), seconds)
    truth = TARGET.diffused(model.sde if name in NOISY else VE(1e-6, 1.01e-6))
    return 1e3 * spent / number, error(model, truth, truth.sde.t_min)


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


def rows(options):
    """Measurements as they come: panel, name, place on the axis below, value, standard error."""
    seeds = range(options.seeds)
    for panel, kind, names in ((0, ScoreModel, SCORES), (1, EnergyModel, ENERGIES)):
        for name in names:
            runs = [at_one_level(name, kind, options.seconds, seed) for seed in seeds]
            ms, errors = torch.tensor(runs, dtype=torch.float64).T
            yield panel, name, ms.mean(), errors.mean(), errors.std() / len(runs) ** 0.5
    for name in EVERY:
        errors = torch.tensor([at_all_levels(name, options.seconds, seed) for seed in seeds])
        spread = errors.std(0) / options.seeds**0.5
        yield from ((2, name, *row) for row in zip(LOG_SNRS, errors.mean(0), spread, strict=True))
    model = model_of(ScoreModel, 0)
    spend(trainer("implicit", model, 0), 1.0)
    for name in ("denoising", "denoising-control", "implicit", "hutchinson", "sliced"):
        for sigma in SIGMAS if name in NOISY else [NOISE]:
            yield 3, name, sigma, worth(name, sigma, options.draws, model.state_dict()), 0.0


def draw(axes, found):
    """Measurements of one panel."""
    for name in dict.fromkeys(row[0] for row in found):
        at, values, errors = zip(*(row[1:] for row in found if row[0] == name), strict=True)
        style = {"color": COLORS[name], "label": name, "marker": "o", "markersize": 4}
        if len(at) == 1 and axes.get_title("left").startswith("What"):  # of clean data
            axes.axhline(values[0], color=COLORS[name], linestyle="--", label=name)
        else:
            axes.errorbar(at, values, errors, **style)
    axes.set(yscale="log", ylabel="relative squared error of the score")


def main():
    """Measure or read, write and draw."""
    options = drawing.options(__file__, __doc__, seconds=2.0, seeds=3, draws=100, read="")
    table = Path(options.read or options.out.with_suffix(".csv"))
    if not options.read:
        with table.open("w", encoding="utf-8") as file:
            for panel, name, *numbers in rows(options):
                print(
                    panel,
                    name,
                    *(f"{float(n):.5g}" for n in numbers),
                    sep=",",
                    file=file,
                    flush=True,
                )
    found = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()]
    figure, axes = drawing.panels(
        "A network that answers a score, one small noise level",
        "An energy, one small noise level (persistent diverged)",
        "All noise levels at once",
        "What a gradient is worth",
        rows=2,
    )
    for index, panel in enumerate(axes):
        draw(panel, [(r[1], *map(float, r[2:])) for r in found if int(r[0]) == index])
    for panel in axes[:2]:
        panel.set(xscale="log", xlabel="milliseconds of a step", ylim=(0.01, 1.1))
        drawing.ticks(panel.xaxis, (5, 10, 20, 40, 80))
    axes[2].set(xlabel="log-SNR")
    axes[3].set(xscale="log", xlabel="noise that denoising adds")
    axes[3].set(ylabel="examples with as much signal as noise")
    drawing.ticks(axes[3].xaxis, SIGMAS)
    drawing.save(figure, axes, options.out)


if __name__ == "__main__":
    main()
