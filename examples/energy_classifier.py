"""A classifier that is a density too: does it know the digits that it has never seen?

python examples/energy_classifier.py
"""

import argparse

import torch

from sde_score import data
from sde_score.evaluation import auroc, familiarity
from sde_score.models import EnergyClassifier
from sde_score.objectives import JointEnergy

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--steps", type=int, default=500)
steps = options.parse_args().steps
torch.manual_seed(0)
digits = data.load("digits")
x, labels = digits.tensor().flatten(1), digits.labels.long()
x = x + 0.03 * torch.randn_like(x)  # gray levels have no density
test, seen = torch.arange(len(x)) % 5 == 0, labels < 8  # 8 and 9 are strangers
known, known_labels, familiar = x[seen & ~test], labels[seen & ~test], x[seen & test]

layers = [torch.nn.Linear(64, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU()]
network = torch.nn.Sequential(*layers, torch.nn.Linear(128, 8))
model = EnergyClassifier(network, num_classes=8)
loss = JointEnergy("persistent(k=10, energy_penalty=0.01)")
loss.setup(known)
adam = torch.optim.Adam(model.parameters(), 1e-3)
for _ in range(steps):
    batch = torch.randint(len(known), (128,))
    adam.zero_grad()
    loss(model, known[batch], known_labels[batch]).mean().backward()
    adam.step()

right = model.logits(familiar, model.sde.t_min).argmax(1) == labels[seen & test]
print(f"digits 0 to 7 that were held out: {right.float().mean():.1%} right")
for name, others in ("digits 8 and 9", x[~seen]), ("uniform noise", 2 * torch.rand(300, 64) - 1):
    for by in ("log-density", "max-softmax", "mass"):
        found = auroc(familiarity(model, familiar, by), familiarity(model, others, by))
        print(f"{name}, {by}: area {found.value:.3f} ± {found.standard_error:.3f}")
