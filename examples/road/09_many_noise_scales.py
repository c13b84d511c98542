"""Noise at many scales repairs it: at each scale there are data wherever the sampler is.

    python examples/road/09_many_noise_scales.py

Blur the data with sigma from large to small. At the largest, the blurred data fill the plane and
one mode is left, which is easy to reach; at each smaller scale the sampler starts where the last
one ended, among the data of this scale. One network learns all scores by denoising, knowing sigma,

    E_sigma sigma^2 | s(x0 + sigma eps, sigma) + eps / sigma |^2,

and annealed Langevin dynamics go down the ladder. Take the ladder to a continuum: a diffusion.
"""

import picture
import torch

from sde_score import nn, objectives, samplers
from sde_score.models import TARGETS, Marginal, ScoreModel
from sde_score.samplers.mcmc import run_chains
from sde_score.sdes import VE

options = picture.arguments(__file__, __doc__, steps=2500)
target, sde = TARGETS.create("mixture"), VE(0.05, 10.0)
truth = target.diffused(sde)


def train(objective, prediction):
    """Fit the network of the last picture to its 1000 points by an objective."""
    generator = torch.Generator().manual_seed(0)
    data = target.sample(1000, generator).float()
    torch.manual_seed(0)
    backbone = nn.create("mlp(width=64, depth=1)", event_shape=(2,))
    model = ScoreModel(backbone, sde, prediction, sigma_data=2.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    for _ in range(options.steps):
        batch = data[torch.randint(len(data), (512,), generator=generator)]
        optimizer.zero_grad()
        objective(model, batch, generator=generator).mean().backward()
        optimizer.step()
        decay.step()
    return model


def mode_shares(x):
    """Share of the points nearest to each mode, by the exact responsibilities."""
    modes = [torch.tensor(mean, dtype=torch.float64) for mean in target.means]
    spreads = [torch.tensor(c, dtype=torch.float64) for c in target.covariances]
    laws = [
        torch.distributions.MultivariateNormal(m, c) for m, c in zip(modes, spreads, strict=True)
    ]
    logs = torch.stack([law.log_prob(x.double()) for law in laws], 1)
    logs = logs + torch.tensor(target.weights, dtype=torch.float64).log()
    return logs.softmax(1).mean(0)


many = train(objectives.create("denoising", time_sampler="uniform_log_snr"), "noise")
one = train(objectives.create("implicit"), "field")
ladder = samplers.create("annealed-langevin", steps=40, steps_each=10)
run = ladder(many, (3000, 2), seed=0, trajectory=True, progress=False)
start = sde.prior_std * torch.randn(3000, 2, generator=torch.Generator().manual_seed(1))
lost = run_chains(Marginal(one), start, "ula(step_size=0.02)", draws=1, warmup=400, seed=0,
                  progress=False).samples[-1]  # fmt: skip

headline = "Noise at many scales: the network knows the whole way down to the data"
figure, panels = picture.sheet(headline, height=7.6, widths=(1, 1, 1), heights=(1, 0.8))
for axes, sigma in zip(panels[0], (6.0, 1.0, 0.05), strict=True):
    level = int((sde.sigma(run.times[:-1]) - sigma).abs().argmin())
    t, states = run.times[level], run.states[level]
    limit = max(4.0, 2.5 * sigma)
    picture.shade(axes, lambda x, t=t: truth.log_prob(x, t).exp(), limit=limit)
    picture.dots(axes, states[:700], picture.LEARNED, size=4, alpha=0.6)
    picture.plane(axes, limit, step=2 if limit < 5 else 10)
    axes.set_title(f"σ = {float(sde.sigma(t)):.2g}: samples over the blurred data")

bottom = panels[1][0].get_gridspec()
for axes in panels[1]:
    axes.remove()
along, shares = figure.add_subplot(bottom[1, :2]), figure.add_subplot(bottom[1, 2])
sigmas, many_error, one_error = [], [], []
for t, x in zip(run.times[:-1], run.states[:-1], strict=True):
    with torch.no_grad():
        true, sigma = truth.score(x.double(), t), float(sde.sigma(t))
        wrong = (many.score(x, t) - true).norm(dim=1), (Marginal(one).score(x) - true).norm(dim=1)
    size = float(true.norm(dim=1).square().mean().sqrt())
    sigmas.append(sigma)
    many_error.append(100 * float(wrong[0].square().mean().sqrt()) / size)
    one_error.append(100 * float(wrong[1].square().mean().sqrt()) / size)
picture.learned(along, sigmas, many_error)
picture.other(along, sigmas, one_error)
along.set(xscale="log", yscale="log", xlim=(10, 0.05), xlabel="noise σ, on the way to the data")
along.set(ylabel="error of the score in %")
picture.say(along, 6, 1.35 * max(many_error[:20]), "all noise scales", picture.LEARNED)
picture.say(along, 6, 0.45 * one_error[5], "trained without noise", picture.OTHER)
along.set_title("Error of the two networks where the sampler is")

columns = [torch.tensor(target.weights), mode_shares(run.samples), mode_shares(lost)]
colors = (picture.TRUTH, picture.LEARNED, picture.OTHER)
for index, (column, color) in enumerate(zip(columns, colors, strict=True)):
    place = [mode + 0.27 * (index - 1) for mode in range(3)]
    shares.bar(place, column.tolist(), width=0.25, color=color)
shares.set(xticks=range(3), xticklabels=["left", "right", "top"], ylabel="share of samples")
shares.set(ylim=(0, 0.85))
for height, text, color in zip((0.78, 0.70, 0.62), ("truth", "annealed Langevin, all scales",
                               "Langevin, without noise"), colors, strict=True):  # fmt: skip
    picture.say(shares, 0.02, height / 0.85, text, color, inside=True, va="center")
shares.set_title("How much each mode gets")
for name, column in zip(("truth", "all scales", "without noise"), columns, strict=True):
    print(f"{name:14}", "  ".join(f"{float(share):.3f}" for share in column))
picture.save(figure, options.out)
