"""Joint energy: the density of the data and their classes, learned by one network."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from sde_score._core.arguments import checked
from sde_score._core.checks import require_positive
from sde_score._core.conditions import NO_CLASS, Condition
from sde_score._core.errors import ArgumentError
from sde_score.models import EnergyClassifier, Model
from sde_score.objectives.base import OBJECTIVES, Objective, StatefulObjective
from sde_score.random import Draws


class JointEnergy(StatefulObjective):
    r"""Joint energy of data and classes: an energy objective for p(x), cross-entropy for p(y | x).

    .. math:: -\log p(y | x) + \lambda\, L(x), \qquad
              \log p(x, y) = \log p(x) + \log p(y | x)

    with L an objective that learns the energy of `EnergyClassifier` from x alone. Examples without
    a label, -1 or no condition at all, count in L alone.

    Args:
        density: L, a name from `OBJECTIVES` or an object, for the data as they are; the paper's is
            `persistent`.
        weight: lambda, > 0.

    Raises:
        ValueError: for an unknown objective, one at all noise levels, or a weight out of range;
            when called, for labels beside a model without logits.

    Reference: Grathwohl et al. 2020, https://arxiv.org/abs/1912.03263, section 4.
    """

    converges_to = "p(x) as the density objective, and p(class | x)"
    reference = "Grathwohl et al. 2020, https://arxiv.org/abs/1912.03263"

    @checked
    def __init__(self, density: str | Objective = "persistent", weight: float = 1.0) -> None:
        super().__init__()
        require_positive(weight=weight)
        self.density = OBJECTIVES.resolve(density, name="density")
        if self.density.all_noise_levels:
            raise ArgumentError(
                f"density={density!r} learns at all noise levels, and labels are told of data "
                "without noise; accepted: one without a time sampler, such as noise-contrastive"
            )
        self.weight = weight
        # Facts of the inner objective, an instance's.
        for name in ("second_derivatives", "divergence_limit"):
            object.__setattr__(self, name, getattr(self.density, name))

    @property
    @override
    def cost(self) -> str:
        """Passes per example."""
        return f"{self.density.cost} + F + B"

    @override
    def setup(self, examples: Tensor) -> None:
        """Set up the density objective."""
        if isinstance(self.density, StatefulObjective):
            self.density.setup(examples)

    @override
    def finish_step(self) -> None:
        """Finish the step of the density objective."""
        if isinstance(self.density, StatefulObjective):
            self.density.finish_step()

    @override
    def require_precision(self, model: Model, rounding: float) -> None:
        check = getattr(self.density, "require_precision", None)
        if check is not None:
            check(model, rounding)

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        loss = self.weight * self.density(model, x0, None, generator)
        if condition is None:
            return loss
        if not isinstance(model, EnergyClassifier):
            raise ArgumentError(
                f"model is a {type(model).__name__}, and condition holds labels: accepted is an "
                "EnergyClassifier, or no condition"
            )
        if not isinstance(condition, Tensor) or condition.is_floating_point():
            raise ArgumentError("condition must be integer labels, shape (batch,)")
        logits = model.logits(x0, model.sde.t_min)
        # Zero where the label says that there is none.
        return loss + cross_entropy(
            logits, condition.long(), ignore_index=NO_CLASS, reduction="none"
        )

    @override
    def extra_repr(self) -> str:
        return f"density={self.density}, weight={self.weight}"
