"""Hutchinson: one random vector instead of a d x d Jacobian.

    python examples/road/05_hutchinson.py

Implicit score matching needs the trace of the score's Jacobian J, one backward pass for each of
its d diagonal entries. For random u of covariance 1, E[u^T J u] = tr J, and u^T J u takes one pass
whatever d; its variance is 2 |J|^2 for Gaussian u and 2 (|J|^2 - sum of J_ii^2) for random signs.
The data in d dimensions are d / 2 copies of the mixture, seen in turned coordinates.
"""

from time import process_time
from timeit import repeat

import picture
import torch

from sde_score import nn, objectives
from sde_score.models import TARGETS, ScoreFunction, ScoreModel, jacobian
from sde_score.random import probes
from sde_score.sdes import VE

options = picture.arguments(__file__, __doc__)
target, generator = TARGETS.create("mixture"), torch.Generator().manual_seed(0)
exact, one_probe = objectives.create("implicit"), objectives.create("hutchinson")
SIZES = [2, 8, 32, 128, 512]


def copies(d, count):
    """The score of turned copies of the mixture, and draws of them `(count, d)`."""
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator).double())[0]
    x = target.sample(count * d // 2, generator).reshape(count, d) @ turn.T
    return lambda x: target.score((x @ turn).reshape(-1, 2)).reshape(x.shape) @ turn.T, x


def milliseconds(objective, d, tries):
    """One loss and its gradient for a small network and 16 examples: the best of some tries."""
    model = ScoreModel(nn.create("mlp(width=64, depth=1)", event_shape=(d,)), VE(), "scaled_score")
    x0 = torch.randn(16, d)
    times = repeat(
        lambda: objective(model, x0).sum().backward(), number=1, repeat=tries, timer=process_time
    )
    return 1e3 * min(times)


def deviations(a):
    """Standard deviation of v^T a v for symmetric a `(n, d, d)`, in closed form."""
    d, square, diagonal = a.shape[1], (a**2).sum((1, 2)), torch.einsum("nii->ni", a)
    signs = 2 * square - 2 * (diagonal**2).sum(1)
    sphere = 2 * d / (d + 2) * (square - diagonal.sum(1) ** 2 / d)
    variances = {"gaussian": 2 * square, "rademacher": signs, "sphere": sphere}
    return {
        distribution: float(variance.mean().sqrt()) for distribution, variance in variances.items()
    }


headline = "One random vector takes the place of a d × d Jacobian"
figure, (matrix, cost, noise) = picture.sheet(headline, widths=(0.85, 1, 1.1))
score, x = copies(16, 1)
a, v = jacobian(score, x)[0].detach(), probes(1, x, "rademacher", generator)[0]
style, top = {"cmap": "PuOr", "vmin": -1, "vmax": 1}, a.abs().max()
for values, place in (a / top, (0, 16, 0, 16)), (v, (0, 16, 17, 18)), (v.T, (-2, -1, 0, 16)):
    matrix.imshow((0.8 * values).numpy(), extent=place, **style)
matrix.set(xlim=(-2.2, 16.2), ylim=(-6.2, 18.2))
matrix.axis("off")
words = f"sum of the diagonal: {a.trace():.1f}\nuᵀ J u for the signs u shown: {v[0] @ a @ v[0]:.1f}"
picture.say(matrix, 7, -0.8, words.replace("-", "−"), ha="center", va="top")
matrix.set_title("J: how the score changes with x")

picture.other(cost, SIZES, [milliseconds(exact, d, 1 + 60 // d) for d in SIZES], marker="o")
picture.learned(cost, SIZES, [milliseconds(one_probe, d, 20) for d in SIZES], marker="o")
picture.name(cost, "Time of one step", "dimension d", "milliseconds", **picture.LOGARITHMIC)
picture.say(cost, 2.2, 300, "exact trace:\nd backward passes", picture.OTHER)
picture.say(cost, 512, 22, "one vector u:\none backward pass", picture.LEARNED, ha="right")

matrices = [jacobian(*copies(d, 16)).detach() for d in SIZES]
expected = [deviations(a) for a in matrices]
for distribution in expected[0]:
    vectors = [probes(200, a[:, 0], distribution, generator) for a in matrices]
    forms = [
        torch.einsum("kni,nij,knj->kn", v, a, v) for v, a in zip(vectors, matrices, strict=True)
    ]
    drawn = [float(form.var(0).mean().sqrt()) for form in forms]
    picture.truth(noise, SIZES, [known[distribution] for known in expected])
    picture.learned(noise, SIZES, drawn, marker="o", linewidth=0)
    print(f"{distribution:10} d = {SIZES}:", *(f"{value:.1f}" for value in drawn), "nats")
truth = ScoreFunction(lambda x, t: target.score(x))
alone = float(exact(truth, target.sample(50000, generator)).detach().std())
picture.other(noise, SIZES, [alone * (d / 2) ** 0.5 for d in SIZES], linestyle="--")
title = "It adds about the noise of the data"
picture.name(noise, title, "dimension d", "standard deviation in nats", **picture.LOGARITHMIC)
picture.say(noise, 22, 52, "u Gaussian", picture.TRUTH, ha="right")
picture.say(noise, 45, 8.5, "u of signs,\nor on a sphere", picture.TRUTH)
picture.say(noise, 16, 1.9, "dashes: the data's own,\nwith the exact trace", picture.OTHER)
picture.save(figure, options.out)
