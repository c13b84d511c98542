"""Couplings: which noise meets which example, with the condition of the example kept beside it.

Noise stays standard normal given the condition: pairs are made anew within a class alone, so that
a conditional model meets the distribution that it is sampled with.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_count, require_positive
from sde_score._core.conditions import ConditionShape, described
from sde_score._core.memory import require_memory
from sde_score._core.registry import Registry
from sde_score.random import generator_from


class Coupling(ABC):  # noqa: B024
    """A way to pair examples and noise; one of your own gives one of the methods."""

    def begin(self, examples: Tensor, labels: Tensor | None, seed: int) -> None:  # noqa: B027
        """Learn from all examples, before the first step.

        Args:
            examples: in model range, `(n, *event)`.
            labels: classes where they are conditions, `(n,)`, else None.
            seed: random seed.
        """

    def choose(self, indices: Tensor, noise: Tensor) -> Tensor:
        """Examples for given noise.

        Args:
            indices: examples that come next, `(batch,)`; what is chosen has the same classes.
            noise: `(batch, *event)`.
        """
        return indices

    def arrange(self, x0: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """The noise in the order in which it meets the examples.

        Args:
            x0: `(batch, *event)`.
            noise: like x0.
            labels: classes where they are conditions.
        """
        return noise


@dataclass(frozen=True)
class Independent(Coupling):
    """Noise and examples are independent."""


@dataclass(frozen=True)
class MinibatchOT(Coupling):
    """Noise is assigned to the examples of a batch so that the squared distances add up to least.

    It is biased by the size of the batch; micro-batches and processes assign their own share.

    Reference: Tong et al. 2024, https://arxiv.org/abs/2302.00482, section 3.2.
    """

    def arrange(self, x0: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """The noise, permuted within each class by an exact assignment."""
        from scipy.optimize import linear_sum_assignment

        order = torch.arange(len(x0))
        groups = torch.zeros(len(x0)) if labels is None else labels.cpu()
        cost = -(x0.flatten(1).double() @ noise.flatten(1).double().T).cpu()
        for one in torch.unique(groups):
            rows = (groups == one).nonzero().flatten()
            _, columns = linear_sum_assignment(cost[rows][:, rows].numpy())
            order[rows] = rows[torch.from_numpy(columns)]
        return noise[order.to(noise.device)]


class SemiDiscreteOT(Coupling):
    r"""Each noise meets the example that optimal transport to the whole data set sends it to.

    .. math:: i(z) = \operatorname{argmax}_i \langle z, x_i \rangle - g_i, \qquad
              g = \operatorname{argmin}\, E_z \max_i (\langle z, x_i \rangle - g_i)
                  + \frac{1}{n} \sum_i g_i

    The potentials g are found by averaged stochastic descent before the first step, one set for
    each class where classes are conditions; no batch biases the pairs. A noise costs one product
    with all examples of its class.

    Args:
        iterations: of the descent, at least 1.
        batch: noises in each, at least 1.
        rate: of the descent, > 0, in units of the spread of the products.

    Reference: Mousavi-Hosseini et al. 2025, https://arxiv.org/abs/2509.25519.
    """

    def __init__(self, iterations: int = 2000, batch: int = 256, rate: float = 1.0) -> None:
        require_count(iterations=iterations, batch=batch)
        require_positive(rate=rate)
        self.iterations, self.batch, self.rate = int(iterations), int(batch), float(rate)
        self.points, self.potentials = torch.empty(0), torch.empty(0)
        self.labels = torch.empty(0)

    def __repr__(self) -> str:
        given = f"iterations={self.iterations}, batch={self.batch}, rate={self.rate}"
        return f"SemiDiscreteOT({given})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    def begin(self, examples: Tensor, labels: Tensor | None, seed: int) -> None:
        """Find the potentials of all examples, class by class."""
        require_memory(4 * self.batch * len(examples), "coupling=semi-discrete", "use ot")
        self.points = examples.flatten(1).float()
        self.labels = torch.zeros(len(examples)) if labels is None else labels
        self.potentials = torch.zeros(len(examples))
        for index, one in enumerate(torch.unique(self.labels)):
            rows = (self.labels == one).nonzero().flatten()
            self.potentials[rows] = self._descend(self.points[rows], seed, index)

    def _descend(self, points: Tensor, seed: int, stream: int) -> Tensor:
        generator = generator_from(seed, stream)
        g = average = torch.zeros(len(points))
        spread = float(points.square().sum(1).mean().sqrt()) + 1e-12
        for k in range(self.iterations):
            z = torch.randn(self.batch, points.shape[1], generator=generator)
            met = (z @ points.T - g).argmax(1).bincount(minlength=len(points)) / self.batch
            g = g + self.rate * spread * (len(points) / (k + 1)) ** 0.5 * (met - 1 / len(points))
            late = k - self.iterations // 2  # the first half is forgotten
            average = torch.lerp(average, g, 1 / (late + 1)) if late > 0 else g
        return average

    def choose(self, indices: Tensor, noise: Tensor) -> Tensor:
        """The examples that the noise is sent to, each of the class of the example before."""
        flat = noise.flatten(1).to(self.points)
        chosen, wanted = indices.clone(), self.labels[indices]
        for one in torch.unique(wanted):
            rows, points = wanted == one, (self.labels == one).nonzero().flatten()
            product = flat[rows] @ self.points[points].T - self.potentials[points]
            chosen[rows] = points[product.argmax(1)]
        return chosen


COUPLINGS: Registry[Coupling] = Registry(
    "coupling",
    {"independent": Independent, "ot": MinibatchOT, "semi-discrete": SemiDiscreteOT},
    base=Coupling,
)


def require_coupling(spec: str | Coupling, objective: object, told: ConditionShape) -> None:
    """Refuse a coupling that the objective does not take, or whose classes are not known.

    Args:
        spec: of the coupling, or the object.
        objective: of the run.
        told: what the network is told beside classes.

    Raises:
        ValueError: with what to choose instead.
    """
    coupling = COUPLINGS.resolve(spec, name="coupling")
    if isinstance(coupling, Independent):
        return
    if not getattr(objective, "takes_pairs", False):
        raise ValueError(
            f"coupling={spec!r} pairs examples with the noise of denoising; objective="
            f"{type(objective).__name__} draws its own: choose objective=denoising or "
            "coupling=independent"
        )
    if told:
        raise ValueError(
            f"coupling={spec!r} pairs examples and noise within classes, and the conditions are "
            f"{described(told)}: choose coupling=independent"
        )
