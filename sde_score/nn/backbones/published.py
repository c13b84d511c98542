"""The published U-Nets by name: `ncsnpp`, `ddpmpp`, `ddpm` and `adm`."""

from __future__ import annotations

from collections.abc import Sequence

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.conditions import ConditionShape
from sde_score.nn.backbones.base import require_sides
from sde_score.nn.backbones.general_unet import GeneralUNet
from sde_score.nn.backbones.residual_unet import ResidualUNet

HALF = 0.5**0.5


@naming_arguments
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
    condition_shape: ConditionShape = (),
) -> ResidualUNet:
    r"""NCSN++: residual blocks rescaled by sqrt(1/2), and the halved image beside them.

    Its published time label is log(sigma). With classes it is EDM's network, which adds sqrt(n)
    times the vector of one of n classes to the features of the label.

    Args:
        event_shape: shape of one example, of one to three sides.
        base: channels of a multiplier of 1.
        multipliers: channels of each level, finest first, as multiples of `base`.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention: resolutions (shorter side) with attention: after every block down, and once up.
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
        condition_shape: see `TimeEmbedding`.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix H.
    """
    widths, attends = _by_resolution(event_shape, base, multipliers, attention)
    levels = (event_shape, widths, blocks, attends, "last", resample, resample)
    return GeneralUNet(
        *levels,
        num_classes,
        dropout,
        channels_per_group=4,
        eps=1e-6,
        scale=HALF if rescale else 1.0,
        fir=fir,
        projects_resampled=True,
        one_sided=not fir,
        embedding=embedding,
        features=base * (1 + (embedding == "fourier")),
        embedding_width=4 * base,
        stem_width=base,
        class_first=True,
        class_bias=True,
        class_scale=max(1, num_classes) ** 0.5,
        num_augment=num_augment,
        input_branch=input_branch,
        output_branch=output_branch,
        concatenate=concatenate,
        condition_shape=condition_shape,
    )


@naming_arguments
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
    condition_shape: ConditionShape = (),
) -> ResidualUNet:
    """DDPM++: NCSN++ without filters and without the image beside the network.

    Its published time label is 999 t. Arguments as of `ncsnpp`.

    Args:
        event_shape: shape of one example, of one to three sides.
        base: channels of a multiplier of 1.
        multipliers: channels of each level, finest first, as multiples of `base`.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention: resolutions (shorter side) with attention.
        num_classes: number of classes; 0 for a network without condition.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        num_augment: number of augmentation labels, 9 in EDM.
        condition_shape: see `TimeEmbedding`.

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
        condition_shape=condition_shape,
    )


@naming_arguments
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
    condition_shape: ConditionShape = (),
) -> ResidualUNet:
    """DDPM's U-Net: strided convolutions between levels, 32 groups in every normalization.

    Its published time label is the index of the layer.

    Args:
        event_shape: shape of one example, of one to three sides.
        base: channels of a multiplier of 1, a multiple of 32.
        multipliers: channels of each level, finest first, as multiples of `base`.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention: resolutions (shorter side) with attention.
        num_classes: number of classes; 0 for a network without condition.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        up_attention: blocks on the way up that attention follows, `"last"` as in score_sde or
            `"all"` as in the original.
        condition_shape: see `TimeEmbedding`.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, appendix B.
    """
    widths, attends = _by_resolution(event_shape, base, multipliers, attention)
    return GeneralUNet(
        event_shape,
        widths,
        blocks,
        attends,
        up_attention,
        "conv",
        "conv",
        num_classes,
        dropout,
        eps=1e-6,
        one_sided=True,
        condition_shape=condition_shape,
        features=base,
        embedding_width=4 * base,
        stem_width=base,
    )


@naming_arguments
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
    condition_shape: ConditionShape = (),
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
        condition_shape: see `TimeEmbedding`.

    Reference: Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233, appendix I.
    """
    widths, attends = _by_resolution(event_shape, base, multipliers, attention)
    return GeneralUNet(
        event_shape,
        widths,
        blocks,
        attends,
        "all",
        resample,
        resample,
        num_classes,
        dropout,
        scale_shift=scale_shift,
        heads=heads,
        head_channels=head_channels,
        features=base,
        sine_first=False,
        shift=0.0,
        embedding_width=4 * base,
        out_channels=2 * event_shape[0] if learned_variance else None,
        condition_shape=condition_shape,
    )


def _by_resolution(
    event_shape: Sequence[int],
    base: int,
    multipliers: Sequence[float],
    attention: Sequence[int],
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Widths of the levels, and whether each has attention.

    Raises:
        ValueError: for shapes without sides.
    """
    shape = require_sides(event_shape)
    require_count(base=base)
    resolutions = [min(shape[1:])]
    for _ in multipliers[1:]:
        resolutions.append((resolutions[-1] + 1) // 2)
    widths = tuple(int(base * multiplier) for multiplier in multipliers)
    return widths, tuple(resolution in attention for resolution in resolutions)
