"""Energy models: a network and an SDE, with a score that is a gradient by construction."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_choice, sum_event
from sde_score._core.conditions import Condition
from sde_score.models import parametrization
from sde_score.models.base import BaseEnergy
from sde_score.models.parametrization import Parametrization, Scales, conversion
from sde_score.models.score_model import BackboneModel
from sde_score.sdes import SDE

HEADS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scalar": lambda u, f: sum_event(f),
    "square": lambda u, f: 0.5 * sum_event(f**2),
    "residual": lambda u, f: 0.5 * sum_event((u - f) ** 2),
    "inner": lambda u, f: sum_event(u * f),
}
"""Functions of a backbone's input u and output f, to one number per example."""


class EnergyModel(BackboneModel, BaseEnergy):
    r"""A backbone whose output becomes an energy; its score is minus the gradient.

    .. math:: E(x, t) = -\tfrac12 a(t) \lVert x \rVert^2 + |b(t)|\, S(t)\, e(x / S), \qquad
              score(x, t) = a(t)\, x - |b(t)|\, \nabla e(x / S)

    where a and b are the coefficients with which `ScoreModel` makes a score of its backbone's
    output F: here -sign(b) grad e takes the place of F, so that every `prediction` scales an
    energy as it scales a score. The head e is one of

    ========== ===================== =========================================================
    `scalar`   sum of f              unbounded: nothing keeps exp(-E) integrable
    `square`   \|f\|^2 / 2           at least 0; grows where f does
    `residual` \|u - f\|^2 / 2       at least 0; grows like \|u\|^2 / 2 if f is bounded
    `inner`    u . f                 unbounded; a denoiser's energy with fewer products
    ========== ===================== =========================================================

    The gradient of `square` vanishes where f does: it does not train a backbone whose last layer
    starts at zero, as ours do (the trainer starts it elsewhere). With the predictions `data`, `edm`
    and, on VP, `velocity`, the first term alone is a Gaussian well, which confines samples as long
    as e does not fall faster.

    Args:
        backbone: called as that of a `ScoreModel`; returns a tensor like x. Its activations must
            have second derivatives that are not zero: SiLU, not ReLU (see `check_differentiable`).
        sde: the forward diffusion; without noise the model is used at `sde.t_min`.
        head: one of the above.
        prediction: a name in `PARAMETRIZATIONS`, or a `Parametrization`: how the energy is scaled;
            `scaled_score` for training without noise.
        sigma_data: root mean square of the data, > 0; None takes that of the parametrization.

    Raises:
        ValueError: for an unknown head or prediction, or a `sigma_data` that is not positive.

    Cost of a score: one forward and one backward pass of the backbone.

    Reference: Salimans & Ho 2021, https://openreview.net/forum?id=9AS-TF2jRNb; Du et al. 2023,
    https://arxiv.org/abs/2302.11552, section 3.
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        sde: str | SDE,
        head: str = "residual",
        prediction: str | Parametrization = "scaled_score",
        sigma_data: float | None = None,
    ) -> None:
        super().__init__(backbone, sde, prediction, sigma_data)
        require_choice("head", head, tuple(HEADS))
        self.head = head

    @override
    def _energy(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        scale = self.parametrization.input_scale(at)
        on_x, on_output = conversion(at, self.parametrization.output(at), parametrization.score(at))
        scaled = x / expand_like(scale, x)
        energy = HEADS[self.head](scaled, self._call_backbone(scaled, at, condition))
        quadratic = 0.5 * sum_event(x**2)
        return (on_output.abs() * scale).to(x) * energy - on_x.to(x) * quadratic

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, head={self.head!r}"
