"""Continue a run, lower its learning rate on the way, and fine-tune it on other data.

python examples/fine_tune.py
"""

import argparse
from pathlib import Path

from sde_score import TrainConfig, create_sampler, train

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--steps", type=int, default=1000)
options.add_argument("--out", type=Path, default=Path("runs/fine-tune"))
options = options.parse_args()
steps, network = options.steps, "mlp(width=128, depth=2)"

config = TrainConfig(data="moons", backbone=network, steps=steps, learning_rate=1e-3)
train(config, options.out / "moons")

longer = TrainConfig(data="moons", backbone=network, steps=2 * steps, learning_rate=1e-3)
train(longer, options.out / "moons")  # goes on where it was, to the bits of one long run

longest = TrainConfig(data="moons", backbone=network, steps=3 * steps, learning_rate=1e-3)
base = train(longest, options.out / "moons", continue_with={"learning_rate": 1e-4})

tuned = TrainConfig(data="spirals", steps=steps, learning_rate=3e-4)
run = train(tuned, options.out / "spirals", init_from=base)  # from step 0, with the run's network
x = create_sampler("dpmpp-2m", nfe=20)(run.model, (1000, 2), seed=0)
print(f"{base.step} steps of moons, {run.step} of spirals: spread {x.std(0).tolist()}")
