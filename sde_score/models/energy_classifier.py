"""Classifiers read as energy models: one network for p(class | x) and, up to a constant, p(x)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.checks import class_of, require_count
from sde_score._core.conditions import Condition, tensors_of
from sde_score._core.errors import ArgumentError
from sde_score.models.base import BaseEnergy
from sde_score.models.calling import Caller, accepts
from sde_score.models.parametrization import Scales
from sde_score.sdes import SDE, SDES, VP


class EnergyClassifier(Caller, BaseEnergy):
    r"""A classifier whose logits f are energies of x with each class.

    .. math:: p(x, y) \propto e^{f(x, t)_y}, \qquad
              E(x, t) = -\log \sum_y e^{f(x, t)_y}, \qquad
              p(y | x) = \mathrm{softmax}(f(x, t))_y

    A softmax is blind to a constant on all logits; here it is the log density. Under a condition, a
    label for each example, the energy is -f(x)_y, that of x and the class; -1 is no class.

    Args:
        classifier: a network or function, called as `classifier(x, t)`, with t a scalar or of shape
            `(batch,)`; returns logits `(batch, num_classes)`. A network of x alone is one for data
            without noise, whatever t.
        num_classes: at least 1.
        sde: the forward diffusion that t belongs to, or its name; VP if not given.

    Raises:
        TypeError: for what cannot be called so; for a condition that is no labels.
        ValueError: when called, for logits of another shape.

    Reference: Grathwohl et al. 2020, https://arxiv.org/abs/1912.03263.
    """

    def __init__(
        self,
        classifier: Callable[..., Tensor],
        num_classes: int,
        sde: str | SDE | None = None,
    ) -> None:
        if isinstance(classifier, nn.Module) and not accepts(classifier, 2):
            classifier = _WithoutTime(classifier)
        super().__init__("classifier", classifier)
        require_count(num_classes=num_classes)
        self.num_classes = num_classes
        self.takes_condition = True  # which goes to the energy, not to the network
        self._sde = VP() if sde is None else SDES.resolve(sde, name="sde")

    def logits(self, x: Tensor, t: Tensor | float) -> Tensor:
        """f(x, t), shape `(batch, num_classes)`; their softmax is p(class | x).

        Args:
            x: shape `(batch, *event)`.
            t: time, a scalar or `(batch,)`.
        """
        at = self._scales(x, t)
        self.nfe += 1
        return self._logits(x, at)

    @override
    def require_condition(self, condition: Condition) -> None:
        """Refuse labels that are not there; none is always answered."""
        for value in tensors_of(condition):
            if value.numel() and int(value.max()) >= self.num_classes:
                raise ValueError(
                    f"condition has labels up to {int(value.max())}; accepted: -1 for none, and "
                    f"0 ... {self.num_classes - 1}"
                )

    @override
    def _check_condition(self, condition: Condition) -> None:
        """Nothing: the network is told none."""

    @override
    def _energy(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        logits = self._logits(x, at)
        anything = -logits.logsumexp(1)
        if condition is None:
            return anything
        if not isinstance(condition, Tensor) or condition.is_floating_point():
            raise ArgumentError(
                f"condition is {class_of(condition)}; accepted: integer labels, shape (batch,)"
            )
        chosen = logits.gather(1, condition.long().clamp(min=0)[:, None])[:, 0]
        return anything.where(condition < 0, -chosen)

    def _logits(self, x: Tensor, at: Scales) -> Tensor:
        return self._call(x, at.t, None, (len(x), self.num_classes))

    @override
    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, {self._sde}"


class _WithoutTime(nn.Module):
    """A network of x alone, called with a time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's answer at x."""
        logits: Tensor = self.network(x)
        return logits
