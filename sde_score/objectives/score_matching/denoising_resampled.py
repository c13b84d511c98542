"""Denoising score matching whose times are drawn where the loss varies most."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.nn.functional import one_hot
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
from sde_score.random import Draws, noise_beside, stratified, uniform
from sde_score.sdes import SDE

_ENOUGH = 16
"""Examples that every bin must have seen before the times adapt."""

_EVEN = 0.1
"""Share of the times that stays spread evenly, so that no factor exceeds its inverse."""


class ResampledDenoising(StatefulObjective):
    r"""Denoising score matching with times that adapt to the loss, reweighted so that nothing else
    changes.

    The range of a time sampler is cut into K bins of equal probability. Bin k is drawn with

    .. math:: q_k = 0.9\, \frac{m_k}{\sum_j m_j} + \frac{0.1}{K}, \qquad
              m_k^2 = \text{running mean of } \ell^2 \text{ in bin } k,

    and its losses are multiplied by 1 / (K q_k). The expected loss and its gradient are those of
    the time sampler, whatever m; among all q, the root of the mean square gives the loss of a batch
    the least variance. An objective whose levels differ much, as under likelihood weighting, gains
    most. The means are those of the steps before, never of the loss that they multiply.

    Args:
        weighting: a name from `WEIGHTINGS`, or an object.
        time_sampler: a name from `TIME_SAMPLERS`, or an object, that says what is expected;
            `"auto"` takes the times that the paper of the SDE trains at. Its `stratified` holds for
            the adapted times.
        bins: K, at least 1.
        memory: steps after which an example counts 1 / e as much, at least 1.

    Raises:
        ValueError: for an unknown name or an argument outside its range.

    Cost: one forward and one backward pass. In training mode every call adds to what
    `finish_step` takes over; in evaluation mode nothing is learned.

    Reference: Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, section 3.3.
    """

    needs = "score"
    all_noise_levels = True
    cost = "F + B"
    converges_to = "the score of x_t at every t"
    reference = "Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672"
    takes_pairs = True

    moments: Tensor
    pending: Tensor

    @checked
    def __init__(
        self,
        weighting: str | Weighting = "variance",
        time_sampler: str | TimeSampler = "auto",
        bins: int = 64,
        memory: int = 1000,
    ) -> None:
        super().__init__()
        require_count(bins=bins, memory=memory)
        require_memory(8.0 * bins * (bins + 4), f"{bins=}")
        self.denoising = DenoisingScoreMatching(weighting, time_sampler)
        self.bins, self.memory = bins, memory
        # Number of examples and sum of squared losses: of past steps, and of the one in progress.
        self.register_buffer("moments", torch.zeros(2, bins, dtype=torch.float64))
        self.register_buffer("pending", torch.zeros(2, bins, dtype=torch.float64))

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        """Weighted loss of each example at an adapted time, shape `(batch,)`."""
        t, importance, factor, bins = self._times(model.sde, x0, generator)
        noise = noise_beside(x0, generator)
        loss = self.denoising.at(model, x0, t, noise, condition) * importance.to(x0)
        if self.training:
            square = loss.detach().double() ** 2
            seen = square.isfinite()  # one example that overflows must not spoil the means
            rows = torch.stack([seen.double(), torch.where(seen, square, 0.0)])
            # A product, not a scatter: its order of summation, and so its rounding, is fixed.
            self.pending += rows @ one_hot(bins, self.bins).double()
        return loss * factor.to(loss)

    def shares(self) -> Tensor:
        """q, the probability of each bin as adapted up to the last step, float64 `(bins,)`."""
        count, squares = self.moments
        size = (squares / count.clamp(min=1)).sqrt()
        adapted = (1 - _EVEN) * size / size.sum() + _EVEN / self.bins
        even = torch.full_like(size, 1 / self.bins)
        return torch.where((count.min() >= _ENOUGH) & (size.sum() > 0), adapted, even)

    @override
    def finish_step(self) -> None:
        """Add up the step over all processes and let it take part in the shares."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self.pending)
        self.moments.mul_(1 - 1 / self.memory).add_(self.pending)
        self.pending.zero_()

    def _times(
        self, sde: SDE, x0: Tensor, generator: Draws
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Times, the importance of the time sampler, the factor 1 / (K q), and bins; `(batch,)`."""
        base = self.denoising.times
        draw = stratified if base.stratified else uniform
        v, q = draw(len(x0), generator, x0.device), self.shares()
        # Sums by a product, which is deterministic on every device.
        ends = q @ torch.ones(self.bins, self.bins, dtype=q.dtype, device=q.device).triu()
        bins = torch.searchsorted(ends, v, right=True).clamp(max=self.bins - 1)
        place = ((v - ends[bins]) / q[bins] + 1).clamp(0, 1)
        u = ((bins + place) / self.bins).clamp(max=1 - 2.0**-53)
        t = base.quantile(sde, u)
        return t, base.importance(sde, t), 1 / (self.bins * q[bins]), bins
