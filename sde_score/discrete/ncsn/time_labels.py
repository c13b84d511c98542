r"""Time labels: the numbers that published networks take in place of t.

A noise level has many labels: an index that counts from the most noise or from the least, the noise
itself, its logarithm, a multiple of t. Each convention here turns a time of an SDE into its label
and back, so that a network of other code becomes a model in one line:

    model = ScoreFunction(labelled(network, "ncsnv2(n=232)", sde), sde)

An index is the nearest one where a time lies between two; the time of an index is exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import expand_like, require_choice, require_count
from sde_score._core.registry import Registry
from sde_score.models import Caller
from sde_score.sdes import SDE, SDES


@dataclass(frozen=True)
class LabelConvention(ABC):
    """A labeling of the noise levels of an SDE.

    Times and labels are scalars or `(batch,)`; a label has the shape of its time. Integer labels
    are int64, others have the dtype of the time; times of labels are float64.
    """

    @abstractmethod
    def label(self, sde: SDE, t: Tensor | float) -> Tensor:
        """The label of time t."""

    @abstractmethod
    def time(self, sde: SDE, label: Tensor | float) -> Tensor:
        """The time of a label."""


@dataclass(frozen=True)
class _Index(LabelConvention):
    """Labels 0 ... n - 1, of levels even in the log-SNR from the most noise down unless overridden.

    Args:
        n: number of noise levels, at least 2.

    Raises:
        ValueError: if n < 2; when called, for labels outside the range (checked on the CPU).
    """

    n: int = 1000

    def __post_init__(self) -> None:
        require_count(minimum=2, n=self.n)

    def label(self, sde: SDE, t: Tensor | float) -> Tensor:
        """The index nearest to t, int64."""
        place = self._place(sde, sde.check_time(t).double())
        return place.round().long().clamp(0, self.n - 1)

    def time(self, sde: SDE, label: Tensor | float) -> Tensor:
        """The time of an index."""
        index = torch.as_tensor(label, dtype=torch.float64)
        if index.device.type == "cpu" and not bool(((index >= 0) & (index < self.n)).all()):
            raise ValueError(f"label={label} must lie in 0 ... {self.n - 1}, the indices of {self}")
        return sde.check_time(self._time(sde, index))

    def _place(self, sde: SDE, t: Tensor) -> Tensor:
        """The index of t before it is rounded."""
        low, high = sde.log_snr_range
        return (sde.log_snr(t) - low) / (high - low) * (self.n - 1)

    def _time(self, sde: SDE, index: Tensor) -> Tensor:
        """The inverse of `_place`."""
        low, high = sde.log_snr_range
        return sde.time_of_log_snr(low + index / (self.n - 1) * (high - low))


@dataclass(frozen=True)
class NCSN(_Index):
    """Index into DESCENDING noise levels: 0 is the most noise, n - 1 the least.

    The levels are n geometric ones between the ends of the SDE. NCSN's network takes the index for
    its conditional normalization; its output is the score.

    Reference: Song & Ermon 2019, https://arxiv.org/abs/1907.05600, section 4.
    """

    n: int = 10


@dataclass(frozen=True)
class NCSNv2(_Index):
    """NCSN's index, 0 the most noise; used only to divide the output by sigma[label].

    The network itself takes no level (technique 3).

    Reference: Song & Ermon 2020, https://arxiv.org/abs/2006.09011, section 3.3.
    """

    n: int = 232


@dataclass(frozen=True)
class ScoreSDEVEDiscrete(_Index):
    """round((1 - t)(n - 1)): 0 is the most noise, sigma_max; for VE, whose t is in [0, 1].

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix C; its published code.
    """

    def _place(self, sde: SDE, t: Tensor) -> Tensor:
        _require_unit_clock(sde, self)
        return (1 - t) * (self.n - 1)

    def _time(self, sde: SDE, index: Tensor) -> Tensor:
        _require_unit_clock(sde, self)
        return 1 - index / (self.n - 1)


@dataclass(frozen=True)
class DDPM(_Index):
    """Layer number less one: t = i / n has label i - 1, so 0 is the LEAST noise; for t up to 1.

    The output of DDPM's network is the noise.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, and its published code.
    """

    def _place(self, sde: SDE, t: Tensor) -> Tensor:
        _require_unit_clock(sde, self)
        return t * self.n - 1

    def _time(self, sde: SDE, index: Tensor) -> Tensor:
        _require_unit_clock(sde, self)
        return (index + 1) / self.n


@dataclass(frozen=True)
class ScoreSDEVE(LabelConvention):
    """The noise itself, sigma on VE, and sigma / alpha on others; it grows with the noise.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix C; its published code.
    """

    def label(self, sde: SDE, t: Tensor | float) -> Tensor:
        """sigma / alpha."""
        return sde.noise_ratio(t)

    def time(self, sde: SDE, label: Tensor | float) -> Tensor:
        """The time of a noise level."""
        return sde.time_of_noise_ratio(torch.as_tensor(label, dtype=torch.float64), strict=True)


@dataclass(frozen=True)
class ScoreSDEVP(LabelConvention):
    """999 t, as a DDPM of 1000 layers counts; it grows with the noise; for VP and sub-VP.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix C; its published code.
    """

    def label(self, sde: SDE, t: Tensor | float) -> Tensor:
        """999 t."""
        _require_unit_clock(sde, self)
        return sde.check_time(t) * 999

    def time(self, sde: SDE, label: Tensor | float) -> Tensor:
        """label / 999."""
        _require_unit_clock(sde, self)
        return sde.check_time(torch.as_tensor(label, dtype=torch.float64) / 999)


@dataclass(frozen=True)
class ScoreSDEVPDiscrete(LabelConvention):
    """t (n - 1), not rounded; it grows with the noise; for VP.

    Layer i of DDPM, at t = i / n, gets i - i / n: less than 1 from DDPM's own label i - 1.

    Args:
        n: number of layers, at least 2.

    Raises:
        ValueError: if n < 2.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix C; its published code.
    """

    n: int = 1000

    def __post_init__(self) -> None:
        require_count(minimum=2, n=self.n)

    def label(self, sde: SDE, t: Tensor | float) -> Tensor:
        """t (n - 1)."""
        _require_unit_clock(sde, self)
        return sde.check_time(t) * (self.n - 1)

    def time(self, sde: SDE, label: Tensor | float) -> Tensor:
        """label / (n - 1)."""
        _require_unit_clock(sde, self)
        return sde.check_time(torch.as_tensor(label, dtype=torch.float64) / (self.n - 1))


@dataclass(frozen=True)
class EDMLabel(LabelConvention):
    """log(sigma / alpha) / 4; it grows with the noise.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1 (c_noise).
    """

    def label(self, sde: SDE, t: Tensor | float) -> Tensor:
        """log(sigma / alpha) / 4."""
        return -0.125 * sde.log_snr(t)

    def time(self, sde: SDE, label: Tensor | float) -> Tensor:
        """The time of a label."""
        ratio = torch.exp(4 * torch.as_tensor(label, dtype=torch.float64))
        return sde.time_of_noise_ratio(ratio, strict=True)


LABELS: Registry[LabelConvention] = Registry(
    "label convention",
    {
        "ncsn": NCSN,
        "ncsnv2": NCSNv2,
        "score-sde-ve": ScoreSDEVE,
        "score-sde-ve-discrete": ScoreSDEVEDiscrete,
        "score-sde-vp": ScoreSDEVP,
        "score-sde-vp-discrete": ScoreSDEVPDiscrete,
        "ddpm": DDPM,
        "edm": EDMLabel,
    },
    base=LabelConvention,
)


def _require_unit_clock(sde: SDE, convention: LabelConvention) -> None:
    """Refuse an SDE whose t does not run up to 1, where a multiple of t names another level."""
    if sde.t_max > 1:
        raise ValueError(
            f"{convention} counts in shares of t, which runs to 1, but that of {sde} runs to "
            f"{sde.t_max:g}: try 'edm' or 'score-sde-ve'"
        )


OUTPUTS = ("score", "noise", "data")


class LabelledNetwork(Caller):
    """A network that takes a label, as the score at (x, t) that `ScoreFunction` takes.

    Its parameters are those of the network, in whose dtype x and labels that are no index come in.

    Args:
        network: called as `network(x, labels)`, or `network(x, labels, condition)` where a
            condition is given, with labels of shape `(batch,)`; its x is that of the SDE.
        convention: a name from `LABELS`, such as `"ddpm(n=1000)"`, or an object.
        sde: the diffusion that the network was trained on.
        output: the network's output: the score, the noise, or the denoised data.

    Raises:
        ValueError: for an unknown name or output.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        convention: str | LabelConvention,
        sde: str | SDE,
        output: str = "score",
    ) -> None:
        super().__init__("network", network, "labels")
        require_choice("output", output, OUTPUTS)
        self.convention = LABELS.resolve(convention)
        self.sde, self.output = SDES.resolve(sde, name="sde"), output

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The score at x and t, in the dtype of x."""
        labels = self.convention.label(self.sde, t).expand(x.shape[0])
        out = self._call(x, labels, condition, tuple(x.shape))
        if self.output == "score":
            return out
        sde = self.sde
        alpha, sigma = expand_like(sde.alpha(t), x), expand_like(sde.sigma(t), x)
        return -out / sigma if self.output == "noise" else (alpha * out - x) / sigma**2


def labelled(
    network: Callable[..., Tensor],
    convention: str | LabelConvention,
    sde: str | SDE,
    output: str = "score",
) -> LabelledNetwork:
    """`LabelledNetwork`, for one line with `ScoreFunction`."""
    return LabelledNetwork(network, convention, sde, output)
