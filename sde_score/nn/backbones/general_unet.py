"""`residual-unet`: the U-Net of residual blocks with every switch of the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_choice
from sde_score._core.conditions import ConditionShape
from sde_score.nn.backbones.residual_unet import Branches, Level, ResidualUNet
from sde_score.nn.blocks.resampling import BOX, FIR
from sde_score.nn.blocks.residual import BlockStyle
from sde_score.nn.blocks.time_embedding import TimeEmbedding, TimeFeatures


class GeneralUNet(ResidualUNet):
    """A U-Net of residual blocks with every switch of the published ones.

    Args:
        event_shape: shape of one example, of one to three sides.
        widths: channels of each level, finest first.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention: for each level, whether attention follows its blocks on the way down.
        up_attention: blocks on the way up that attention follows, `"all"`, `"last"` or `"none"`;
            one for all levels with attention, or one for each.
        down: ways to the next coarser level, `"block"`, `"conv"` or `"filter"`; one or each.
        up: ways to the next finer level, likewise.
        num_classes: number of classes; 0 for a network without condition.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        groups: see `BlockStyle`.
        channels_per_group: see `BlockStyle`.
        eps: see `BlockStyle`.
        scale_shift: see `BlockStyle`.
        scale: see `BlockStyle`.
        middle_scale: scale of the blocks in the middle; None for `scale`.
        middle_attention: see `ResidualUNet`.
        heads: see `BlockStyle`.
        head_channels: see `BlockStyle`.
        attention_groups: see `BlockStyle`, on the way down and up.
        fir: resample by the filter (1, 3, 3, 1) instead of means and repetition.
        projects_resampled: see `BlockStyle`.
        one_sided: see `ResidualUNet`.
        embedding: `"positional"` or `"fourier"`, see `TimeFeatures`.
        features: number of features of the time label; None for the finest width, twice that for
            random ones.
        sine_first: see `TimeFeatures`.
        shift: see `TimeFeatures`.
        embedding_width: length of the embedding; None for four times the finest width.
        class_first: see `TimeEmbedding`.
        class_bias: see `TimeEmbedding`.
        class_scale: see `TimeEmbedding`.
        num_augment: see `TimeEmbedding`.
        input_branch: see `Branches`.
        output_branch: see `Branches`.
        concatenate: see `Branches`.
        out_channels: see `ResidualUNet`.
        up_groups: see `ResidualUNet`.
        middle_norm: whether attention in the middle normalizes its input.
        stem_width: see `ResidualUNet`.
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        ValueError: for sizes out of range, or lists that do not have one entry per level.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        widths: Sequence[int] = (128, 256, 256, 256),
        blocks: int = 2,
        attention: Sequence[bool] = (False, True, False, False),
        up_attention: Sequence[str] | str = "all",
        down: Sequence[str] | str = "block",
        up: Sequence[str] | str = "block",
        num_classes: int = 0,
        dropout: float = 0.0,
        groups: int = 32,
        channels_per_group: int = 1,
        eps: float = 1e-5,
        scale_shift: bool = False,
        scale: float = 1.0,
        middle_scale: float | None = None,
        middle_attention: bool = True,
        heads: int = 1,
        head_channels: int | None = None,
        attention_groups: int | None = None,
        fir: bool = False,
        projects_resampled: bool = False,
        one_sided: bool = False,
        embedding: str = "positional",
        features: int | None = None,
        sine_first: bool = True,
        shift: float = 1.0,
        embedding_width: int | None = None,
        class_first: bool = False,
        class_bias: bool = False,
        class_scale: float = 1.0,
        num_augment: int = 0,
        input_branch: str | None = None,
        output_branch: str | None = None,
        concatenate: bool = False,
        out_channels: int | None = None,
        up_groups: Sequence[int] | None = None,
        middle_norm: bool = True,
        stem_width: int | None = None,
        condition_shape: ConditionShape = (),
    ) -> None:
        finest = widths[0] if widths else 0
        style = BlockStyle(
            groups,
            channels_per_group,
            eps,
            scale_shift,
            scale,
            projects_resampled,
            heads,
            head_channels,
            dropout,
            attention_groups,
            taps=FIR if fir else BOX,
        )
        width = 4 * finest if embedding_width is None else embedding_width
        features = features or finest * (1 + (embedding == "fourier"))
        times = TimeFeatures(features, embedding, sine_first, shift)
        classes = (num_classes, class_first, num_augment, class_scale, class_bias)
        levels = _levels(widths, blocks, attention, up_attention, down, up)
        branches = Branches(input_branch, output_branch, concatenate)
        middle = _middle(style, middle_scale, middle_norm)
        given = (middle_attention, one_sided, out_channels, up_groups, stem_width)
        embedded = TimeEmbedding(times, width, *classes, condition_shape=condition_shape)
        super().__init__(event_shape, levels, embedded, style, branches, middle, *given)


def _levels(
    widths: Sequence[int],
    blocks: int,
    attention: Sequence[bool],
    up_attention: Sequence[str] | str,
    down: Sequence[str] | str,
    up: Sequence[str] | str,
) -> list[Level]:
    rows = zip(
        widths,
        [blocks] * len(widths),
        _each("attention", attention, len(widths)),
        _up_attention(up_attention, attention),
        _each("down", down, len(widths)),
        _each("up", up, len(widths)),
        strict=True,
    )
    return [Level(*row) for row in rows]


def _middle(style: BlockStyle, scale: float | None, norm: bool) -> BlockStyle:
    scale = style.scale if scale is None else scale
    return replace(style, scale=scale, attention_groups=None if norm else 0)


def _each(name: str, value: Sequence[object] | str, count: int) -> Sequence[object]:
    """One value per level.

    Raises:
        ValueError: for a list of another length.
    """
    if isinstance(value, str):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name}={value!r} must have one entry for each of the {count} widths")
    return value


def _up_attention(up: Sequence[str] | str, attention: Sequence[bool]) -> Sequence[object]:
    if not isinstance(up, str):
        return _each("up_attention", up, len(attention))
    require_choice("up_attention", up, ("all", "last", "none"))
    return [up if attends else "none" for attends in attention]
