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
from sde_score.mcmc import run_chains
from sde_score.models import TARGETS, Gaussian, Marginal, ScoreModel
from sde_score.sdes import VE

options = picture.arguments(__file__, __doc__, steps=2000)
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
        batch = data[torch.randint(len(data), (256,), generator=generator)]
        optimizer.zero_grad()
        objective(model, batch, generator=generator).mean().backward()
        optimizer.step()
        decay.step()
    return model


def mode_shares(x):
    """Mean over the points of the exact probability of each mode."""
    parts = zip(target.means, target.covariances, target.weights, strict=True)
    joint = [w * Gaussian(mean, spread).log_prob(x.double()).exp() for mean, spread, w in parts]
    return (torch.stack(joint) / torch.stack(joint).sum(0)).mean(1)


many = train(objectives.create("denoising", time_sampler="uniform_log_snr"), "noise")
one = train(objectives.create("hutchinson"), "scaled_score")
annealed = samplers.create("annealed-langevin", steps=80, steps_each=6)
run = annealed(many, (1500, 2), seed=0, trajectory=True, progress=False)
start = sde.prior_std * torch.randn(1500, 2, generator=torch.Generator().manual_seed(1))
lost = run_chains(Marginal(one), start, "ula(step_size=0.02)", draws=1, warmup=300, seed=0,
                  progress=False).samples[-1]  # fmt: skip

headline = "Noise at many scales: the network knows the whole way down to the data"
figure, (ladder, (along, shares, astray)) = picture.sheet(headline, 8, (1, 1, 1), (1, 0.9))
for axes, sigma in zip(ladder, (6.0, 1.0, 0.05), strict=True):
    level = int((sde.sigma(run.times[:-1]) - sigma).abs().argmin())
    t, limit = run.times[level], max(4.0, 2.5 * sigma)
    picture.shade(axes, lambda x, t=t: truth.log_prob(x, t).exp(), limit=limit)
    picture.dots(axes, run.states[level][:700], picture.LEARNED, size=4, alpha=0.6)
    picture.plane(axes, limit, step=2 if limit < 5 else 10)
    axes.set_title(f"Samples at noise σ = {float(sde.sigma(t)):.2g}")

errors = []
with torch.no_grad():
    for t, x in zip(run.times[:-1], run.states[:-1], strict=True):
        true = truth.score(x.double(), t)
        wrong = [
            (s - true).norm() / true.norm() for s in (many.score(x, t), Marginal(one).score(x))
        ]
        errors.append([100 * float(w) for w in wrong])
sigmas = sde.sigma(run.times[:-1])
picture.learned(along, sigmas, [error[0] for error in errors])
picture.other(along, sigmas, [error[1] for error in errors])
along.set(xscale="log", yscale="log", xlim=(10, 0.05), ylim=(0.3, 3e4))
along.set(xlabel="noise σ, on the way to the data", ylabel="error of the score in %")
picture.say(along, 0.04, 0.03, "all noise scales", picture.LEARNED, inside=True)
picture.say(along, 0.3, 0.9, "trained without noise", picture.OTHER, inside=True)
along.set_title("Error where the sampler is")

groups = {"truth": torch.tensor(target.weights), "all scales": mode_shares(run.samples)}
groups["without noise"] = mode_shares(lost)
colors = (picture.TRUTH, picture.LEARNED, picture.OTHER)
for index, (name, color) in enumerate(zip(groups, colors, strict=True)):
    place = [mode + 0.27 * (index - 1) for mode in range(3)]
    shares.bar(place, groups[name].tolist(), width=0.25, color=color)
    picture.say(shares, 0.6, 0.92 - 0.09 * index, name, color, inside=True)
    print(f"{name:14}", "  ".join(f"{float(share):.3f}" for share in groups[name]))
shares.set(xticks=range(3), xticklabels=["left", "right", "top"], ylabel="share of samples")
shares.set_title("How much each mode gets")
picture.shade(astray, lambda x: target.log_prob(x).exp())
picture.dots(astray, lost[:700], picture.OTHER, size=4, alpha=0.6)
picture.plane(astray)
astray.set_title("Langevin, without noise")
picture.save(figure, options.out)
