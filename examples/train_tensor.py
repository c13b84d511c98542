"""Train on your own tensor: checkpoints, averaged weights, held-out data and pictures for free.

python examples/train_tensor.py
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from sde_score import TrainConfig, bits_per_dim, create_sampler, load_run, train
from sde_score.report import save_examples

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--steps", type=int, default=1000)
options.add_argument("--out", type=Path, default=Path("runs/tensor"))
options = options.parse_args()

images = torch.from_numpy(load_digits().images).to(torch.uint8)[:, None]  # (1797, 1, 8, 8)
config = TrainConfig(sde="vp", steps=options.steps, batch_size=64, held_out=0.1)
train(config, options.out, data=images)

run = load_run(options.out, data=images)  # later, or elsewhere
x = create_sampler("dpmpp-2m", nfe=20)(run.model, (64, *run.event_shape), seed=0)
save_examples(x, options.out / "samples.png")
unseen = run.dataset("held_out")
found = bits_per_dim(run.model, unseen.raw(torch.arange(32)), run.scaling)
print(f"unseen images: {found.mean:.2f} ± {found.standard_error:.2f} bits/dim")
