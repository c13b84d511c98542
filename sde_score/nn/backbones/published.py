"""The published U-Nets: `ncsnpp`, `ddpmpp`, `ddpm` and `adm`, with the defaults of their papers."""

from __future__ import annotations

from collections.abc import Sequence

from sde_score._core.arguments import checked
from sde_score._core.checks import require_choice, require_count
from sde_score.nn.backbones.base import require_dropout, require_event_shape
from sde_score.nn.backbones.residual_unet import Branches, Level, ResidualUNet
from sde_score.nn.blocks.resampling import BOX, FIR
from sde_score.nn.blocks.residual import BlockStyle
from sde_score.nn.blocks.time_embedding import TimeEmbedding, TimeFeatures

HALF = 0.5**0.5


@checked
def ncsnpp(
    event_shape: Sequence[int],
    base: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    blocks: int = 4,
    attention: Sequence[int] = (16,),
    num_classes: int = 0,
    dropout: float = 0.1,
    fir: bool = True,
    embedding: str = "fourier",
    input_branch: str | None = "residual",
    output_branch: str | None = None,
    concatenate: bool = False,
    resample: str = "block",
    rescale: bool = True,
    num_augment: int = 0,
) -> ResidualUNet:
    r"""NCSN++: residual blocks rescaled by sqrt(1/2), and the halved image beside them.

    Its time label is log(sigma) with `embedding="fourier"`; the published networks for VE.

    Args:
        event_shape: shape of one example, of one to three sides.
        base: channels of a multiplier of 1.
        multipliers: channels of each level, finest first, as multiples of `base`.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention: resolutions (shorter side) with attention: after every block on the way down, and
            once on the way up.
        num_classes: number of classes; 0 for a network without condition.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        fir: resample by the filter (1, 3, 3, 1) instead of means and repetition.
        embedding: of the time label: `"fourier"` or `"positional"`.
        input_branch: see `Branches`; `"skip"` for images of 256 pixels and more.
        output_branch: see `Branches`; `"skip"` for images of 256 pixels and more.
        concatenate: see `Branches`.
        resample: by a residual `"block"`, by a `"conv"` or by the `"filter"` alone.
        rescale: multiply sums by sqrt(1/2).
        num_augment: number of augmentation labels, 9 in EDM.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix H.
    """
    style = BlockStyle(
        channels_per_group=4,
        eps=1e-6,
        scale=HALF if rescale else 1.0,
        projects_resampled=True,
        dropout=_dropout(dropout),
        taps=FIR if fir else BOX,
    )
    width = 2 * base if embedding == "fourier" else base
    return ResidualUNet(
        event_shape,
        _levels(event_shape, base, multipliers, blocks, attention, "last", resample),
        TimeEmbedding(TimeFeatures(width, embedding), 4 * base, num_classes, True, num_augment),
        style,
        Branches(input_branch, output_branch, concatenate),
        one_sided=not fir,
    )


@checked
def ddpmpp(
    event_shape: Sequence[int],
    base: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    blocks: int = 4,
    attention: Sequence[int] = (16,),
    num_classes: int = 0,
    dropout: float = 0.1,
    num_augment: int = 0,
) -> ResidualUNet:
    """DDPM++: NCSN++ without filters and without the image beside the network.

    Its published time label is 999 t. Arguments as of `ncsnpp`.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix H.
    """
    return ncsnpp(
        event_shape,
        base,
        multipliers,
        blocks,
        attention,
        num_classes,
        dropout,
        fir=False,
        embedding="positional",
        input_branch=None,
        num_augment=num_augment,
    )


@checked
def ddpm(
    event_shape: Sequence[int],
    base: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    blocks: int = 2,
    attention: Sequence[int] = (16,),
    num_classes: int = 0,
    dropout: float = 0.1,
    up_attention: str = "last",
) -> ResidualUNet:
    """DDPM's U-Net: strided convolutions between levels, groups of normalization always 32.

    Its published time label is the index of the layer. Arguments as of `ncsnpp`.

    Args:
        event_shape: shape of one example, of one to three sides.
        base: channels of a multiplier of 1.
        multipliers: channels of each level, finest first, as multiples of `base`.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention: resolutions (shorter side) with attention.
        num_classes: number of classes; 0 for a network without condition.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        up_attention: blocks on the way up that attention follows, `"last"` or `"all"`.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, appendix B.
    """
    return ResidualUNet(
        event_shape,
        _levels(event_shape, base, multipliers, blocks, attention, up_attention, "conv"),
        TimeEmbedding(TimeFeatures(base), 4 * base, num_classes),
        BlockStyle(eps=1e-6, dropout=_dropout(dropout)),
        one_sided=True,
    )


@checked
def adm(
    event_shape: Sequence[int],
    base: int = 192,
    multipliers: Sequence[float] = (1, 2, 3, 4),
    blocks: int = 3,
    attention: Sequence[int] = (32, 16, 8),
    num_classes: int = 0,
    dropout: float = 0.1,
    head_channels: int | None = 64,
    heads: int = 1,
    resample: str = "block",
    scale_shift: bool = True,
    learned_variance: bool = False,
    num_augment: int = 0,
) -> ResidualUNet:
    """ADM: adaptive group normalization, many heads, attention at several resolutions.

    Its published time label is the index of the layer, 0 ... 999.

    Args:
        event_shape: shape of one example, of one to three sides.
        base: channels of a multiplier of 1.
        multipliers: channels of each level, finest first, as multiples of `base`.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention: resolutions (shorter side) where attention follows every block.
        num_classes: number of classes; 0 for a network without condition.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        head_channels: channels of a head of attention; None for `heads` heads.
        heads: number of heads where `head_channels` is None.
        resample: by a residual `"block"` or by a `"conv"`.
        scale_shift: condition by scale and shift; False adds the embedding.
        learned_variance: answer with twice the channels in `everything`.
        num_augment: number of augmentation labels.

    Reference: Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233, appendix I.
    """
    shape = require_event_shape(event_shape)
    return ResidualUNet(
        shape,
        _levels(shape, base, multipliers, blocks, attention, "all", resample),
        TimeEmbedding(
            TimeFeatures(base, sine_first=False, shift=0.0),
            4 * base,
            num_classes,
            num_augment=num_augment,
        ),
        BlockStyle(
            scale_shift=scale_shift,
            head_channels=head_channels,
            heads=heads,
            dropout=_dropout(dropout),
        ),
        out_channels=2 * shape[0] if learned_variance else None,
    )


def _dropout(dropout: float) -> float:
    require_dropout(dropout)
    return dropout


def _levels(
    event_shape: Sequence[int],
    base: int,
    multipliers: Sequence[float],
    blocks: int,
    attention: Sequence[int],
    up_attention: str,
    resample: str,
) -> list[Level]:
    """The levels of a published network.

    Raises:
        ValueError: for attention at a resolution that does not occur, or sides too short to halve.
    """
    shape = require_event_shape(event_shape)
    if not 2 <= len(shape) <= 4:
        raise ValueError(
            f"event_shape={shape} must have channels and one to three sides, as (3, 32, 32): take "
            "mlp for vectors"
        )
    require_count(base=base)
    require_choice("resample", resample, ("block", "conv", "filter"))
    resolutions = [min(shape[1:])]
    for _ in multipliers[1:]:
        resolutions.append((resolutions[-1] + 1) // 2)
    return [
        Level(
            int(base * multiplier),
            blocks,
            resolution in attention,
            up_attention if resolution in attention else "none",
            resample,
            resample,
        )
        for multiplier, resolution in zip(multipliers, resolutions, strict=True)
    ]
