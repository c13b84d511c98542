"""Where the bits go: the code length of digits, noise level by noise level.

    python examples/road/12_where_the_bits_go.py

Read as a hierarchical VAE, the network codes an image from noise to data: each layer pays for what
the one before left open. With n to infinity the bound becomes an integral over the log-SNR,

    -log P(x0) <= prior + 1/2 integral E |predicted noise - noise|^2 d log-SNR - E log P(x0 | x_1),

whose integrand is the loss that the network was trained by, and whose area is the code length.
"""

import digits
import picture
import torch

from sde_score import objectives
from sde_score.discrete import HierarchicalVAE
from sde_score.likelihood import bits_per_dim

CLEAN = 6.0  # the last log-SNR: noise of half the width of a gray level
COUNTS = (10, 20, 30, 50, 100, 300)
SHOWN = {10: picture.OTHER, 30: picture.LEARNED}

options = picture.arguments(__file__, __doc__, steps=1200, samples=100)
train, held_out = digits.load()
model = digits.train(train, options.steps, spread=False)
sde, levels = model.sde, train.scaling.levels
raw = held_out.raw(torch.arange(options.samples))
x0 = train.scaling.to_model(raw)
bit = torch.log(torch.tensor(2.0, dtype=torch.float64))
end = float(sde.time_of_log_snr(CLEAN))


def per_dim(nats):
    """Mean over the examples, in bits per dimension."""
    return nats.double().mean(-1) / (bit * x0[0].numel())


figure, grid = picture.sheet(
    "Where the bits go: from noise to data, the code of a digit", 7.9, (1.7, 1), (1, 0.45)
)
(where, total), strip = grid[0], picture.joined(grid[1])
generator, denoising = torch.Generator().manual_seed(0), objectives.create("denoising")
log_snrs = torch.linspace(sde.log_snr_range[0], CLEAN, 65, dtype=torch.float64)
loss, repeated = [], x0.repeat(4, 1, 1, 1)
for t in sde.time_of_log_snr(log_snrs):
    noise = torch.randn(repeated.shape, generator=generator)
    with torch.no_grad():
        loss.append(denoising.at(model, repeated, t.expand(len(noise)), noise))
slope = torch.stack(loss).double().mean(1) / (2 * bit)
picture.truth(where, log_snrs, slope, label="n → ∞: the loss, halved")
sums = {}
for n in COUNTS:
    vae = HierarchicalVAE.from_sde(sde, n, grid=f"log_snr(end={end})")
    bound = vae.elbo(model, x0, levels=levels)
    sums[n] = float(per_dim(bound.nats))
    if n in SHOWN:
        steps = per_dim(bound.layers) / -vae.log_snrs.diff()
        style = {"baseline": None, "linewidth": 1.8, "color": SHOWN[n], "label": f"n = {n} layers"}
        where.stairs(steps.flip(0), vae.log_snrs.flip(0), **style)
print("bits/dim by layers:", *(f" {n}: {s:.3f}" for n, s in sums.items()))
prior, decoder = float(per_dim(bound.prior)), float(per_dim(bound.reconstruction))
area = float(torch.trapezoid(slope, log_snrs))
limit = prior + area + decoder
flow = "flow(rtol=1e-3, atol=1e-3, dequantization='truncated-normal(truncation=2)')"
ode = bits_per_dim(model, raw, train.scaling, flow)
print(f"prior {prior:.6f} + layers {area:.3f} + decoder {decoder:.3f} = {limit:.3f}")
print(f"ODE {ode.mean:.3f} ± {ode.standard_error:.3f}")
where.legend(loc="upper left")
sum_of = f"prior {prior:.2f} + layers {area:.2f} (area)\n+ decoder {decoder:.2f} = {limit:.2f} bits"
picture.say(where, 0.03, 0.42, sum_of, picture.TRUTH, inside=True)
picture.name(where, "Bits of each layer", "log-SNR", "bits per dimension and unit of log-SNR")
where.set(xlim=(-6, CLEAN), ylim=(0, None))

total.axhline(limit, color=picture.TRUTH, linewidth=6, alpha=0.4, label="n → ∞")
picture.learned(total, list(sums), list(sums.values()), marker="o", markersize=4, label="bound")
total.axhline(ode.mean, color=picture.OTHER, linestyle="--", label="ODE")
total.legend()
picture.name(total, "Bits of all layers", "layers n", "bits per dimension", xscale="log")

marks = torch.arange(-6, CLEAN + 1)
t, digit = sde.time_of_log_snr(marks), x0[:1].expand(len(marks), -1, -1, -1)
noisy = sde.perturb(digit, t, noise[:1].expand_as(digit))
with torch.no_grad():
    images = torch.stack(
        [noisy / noisy.abs().amax((1, 2, 3), keepdim=True), model.denoise(noisy, t)]
    )
digits.rows(strip, images, ["x", "E[x₀ | x]"], (picture.INK, picture.LEARNED))
strip.set(xticks=[digits.SIDE * (k + 0.5) for k in range(len(marks))], xlabel="log-SNR")
strip.set_xticklabels([f"{int(mark)}".replace("-", "−") for mark in marks])
strip.set_title("A digit on the way, and the mean of the digits that the network holds possible")
picture.save(figure, options.out)
