"""Denoising score matching whose weights are learned: every noise level counts alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.arguments import checked
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition
from sde_score._core.memory import require_memory
from sde_score.models import Model
from sde_score.objectives.base import StatefulObjective
from sde_score.objectives.score_matching.denoising import DenoisingScoreMatching
from sde_score.objectives.time_samplers import TimeSampler
from sde_score.objectives.weightings import Weighting
from sde_score.random import Draws
from sde_score.sdes import SDE


class AdaptiveDenoising(StatefulObjective):
    r"""Denoising score matching, each noise level divided by the loss that is expected there.

    .. math:: e^{-u(t)}\, \ell(x_0, t) + u(t), \qquad u = \text{a linear layer of waves of } \log s

    with s = sigma / alpha. At the minimum in u, exp(u) is the mean loss at the noise level, so that
    the gradients of all levels have one size, whatever the weighting; and the loss that is shown is
    a mean log of losses plus 1, which may be negative. The model at the minimum stays the same.

    Args:
        weighting: a name from `WEIGHTINGS`, or an object; EDM2 takes EDM's.
        time_sampler: a name from `TIME_SAMPLERS`, or an object; `"auto"` takes the times that the
            paper of the SDE trains at.
        features: number of waves, at least 1.

    Raises:
        ValueError: for an unknown name or an argument outside its range.

    Cost: one forward and one backward pass.

    Reference: Karras et al. 2024, https://arxiv.org/abs/2312.02696, section 2.1 and appendix B.
    """

    needs = "score"
    all_noise_levels = True
    cost = "F + B"
    converges_to = "the score of x_t at every t"
    reference = "Karras et al. 2024, https://arxiv.org/abs/2312.02696"
    takes_pairs = True

    frequencies: Tensor
    phases: Tensor

    @checked
    def __init__(
        self,
        weighting: str | Weighting = "variance",
        time_sampler: str | TimeSampler = "auto",
        features: int = 128,
    ) -> None:
        super().__init__()
        require_count(features=features)
        require_memory(12.0 * features, f"{features=}")
        self.denoising = DenoisingScoreMatching(weighting, time_sampler)
        generator = torch.Generator().manual_seed(0)  # waves are no choice of the run
        drawn = (
            torch.randn(features, generator=generator),
            torch.rand(features, generator=generator),
        )
        self.register_buffer("frequencies", 2 * math.pi * drawn[0])
        self.register_buffer("phases", 2 * math.pi * drawn[1])
        self.log_loss = nn.Linear(features, 1)
        nn.init.zeros_(self.log_loss.weight)
        nn.init.zeros_(self.log_loss.bias)

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        """Loss of each example at a random time, over the expected one, shape `(batch,)`."""
        t, importance, noise = self.denoising.draw(model.sde, x0, generator)
        loss = self.denoising.at(model, x0, t, noise, condition)
        u = self.expected(model.sde, t).to(loss)
        return (loss * torch.exp(-u) + u) * importance.to(loss)

    def expected(self, sde: SDE, t: Tensor) -> Tensor:
        """u(t), the log of the loss that is expected, `(batch,)`.

        Args:
            sde: of the model.
            t: times, `(batch,)`.
        """
        place = (-sde.log_snr(t.double()) / 8).to(self.frequencies)  # log(s) / 4, as EDM's label
        waves = math.sqrt(2) * torch.cos(place[:, None] * self.frequencies + self.phases)
        found: Tensor = self.log_loss(waves)
        return found[:, 0]
