"""Likelihood tells the improbable, not the unfamiliar: an empty sheet is no digit, but cheap.

    python examples/road/15_out_of_distribution.py

The ODE carries an image to noise z and gives it a code length in bits per dimension,

    -(log p_prior(z) + integral of div velocity dt) / (D log 2) + log2 of a level's width.

A network that saw digits alone needs few bits for new digits, and many for noise, for shuffled
pixels and for negatives. But a bar, a blank sheet and half a digit cost less than digits do, though
no digit looks like them: a code length grows with how much there is to say.
"""

import digits
import picture
import torch

from sde_score.likelihood import bits_per_dim

LOW, HIGH = 1.15, 12.0

options = picture.arguments(__file__, __doc__, steps=1200, samples=100)
train, held_out = digits.load()
model = digits.train(train, options.steps)
generator = torch.Generator().manual_seed(0)
raw = held_out.raw(torch.arange(options.samples)).double()
order = torch.rand(len(raw), 64, generator=generator).argsort(1)
half, bar = torch.zeros(2, 8, 8, dtype=torch.float64)
half[:4], bar[:, 3:5] = 1, 16
kinds = {
    "training digits": train.raw(torch.arange(len(raw))),
    "new digits": raw,
    "a bar": bar.expand_as(raw),
    "a blank sheet": torch.zeros_like(raw),
    "upper half": raw * half,
    "mirrored": raw.flip(3),
    "two in one": torch.maximum(raw, raw.roll(1, 0)),
    "on their side": raw.transpose(2, 3),
    "shuffled pixels": raw.flatten(1).gather(1, order).reshape(raw.shape),
    "noise": torch.randint(17, raw.shape, generator=generator),
    "negatives": 16 - raw,
}
found = {
    kind: bits_per_dim(model, x, train.scaling, "flow(rtol=1e-3, atol=1e-3)").values
    for kind, x in kinds.items()
}

figure, (examples, lengths) = picture.sheet(
    "Code length finds noise, and overlooks what is simple", 7.6, (1, 1.9)
)
edges = torch.logspace(*torch.tensor([LOW, HIGH]).log10().tolist(), 61, dtype=torch.float64)
colors = []
for row, (kind, bits) in enumerate(found.items()):
    longer = float((bits[:, None] > found["new digits"]).double().mean())
    colors.append(picture.TRUTH if row < 2 else picture.OTHER if longer > 0.5 else picture.LEARNED)
    count, _ = torch.histogram(bits.clamp(LOW, HIGH), edges)
    top = row + 0.5 - 0.85 * count / count.max()
    lengths.stairs(top, edges, baseline=row + 0.5, fill=True, color=colors[-1], alpha=0.75)
    lengths.plot(float(bits.mean()), row + 0.5, "|", color=picture.INK, markersize=9)
    told = "" if row == 1 else f"{100 * longer:.0f} %"
    picture.say(lengths, 13.2, row + 0.25, told, colors[-1], clip_on=False)
    print(f"{kind:16} {bits.mean():.3f} bits/dim, longer than a new digit: {100 * longer:.1f} %")
lengths.axvline(float(found["new digits"].mean()), color=picture.TRUTH, linewidth=1, zorder=0)
lengths.set(xscale="log", xlim=(LOW, HIGH), ylim=(len(kinds) - 0.5, -0.5), yticks=[])
lengths.set(xticks=(1.5, 2, 3, 4, 6, 8, 12), xlabel="bits per dimension")
lengths.xaxis.set_major_formatter("{x:g}")
lengths.minorticks_off()
lengths.spines["left"].set_visible(False)
lengths.set_title("Code lengths; at the right how many are longer than a new digit's")
shown = torch.stack([train.scaling.to_model(images[:6]) for images in kinds.values()])
digits.rows(examples, shown, list(kinds), colors)
examples.set_aspect("auto")
examples.set_title("What it was asked about")
picture.save(figure, options.out)
