"""DDPM's networks in PyTorch: files of pytorch_diffusion and ddim, also in DDRM, DDNM, SDEdit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sde_score._core.registry import format_spec
from sde_score.interop import unets
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import Taken, outline
from sde_score.interop.schedules import betas, through
from sde_score.interop.trainers import chosen_state, raw_state, side_of_images
from sde_score.training.errors import CheckpointError

PRESETS: dict[str, int] = {
    "cifar10": 32,
    "celeba": 64,
    "celebahq": 256,
    "lsun_bedroom": 256,
    "lsun_cat": 256,
    "lsun_church": 256,
}
"""Side of the images of published files, by the names of their data."""


def read(
    contents: Contents,
    preset: str | None = None,
    weights: str = "ema",
    image_size: int | None = None,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    steps: int = 1000,
    dropout: float = 0.0,
) -> Imported:
    """A network of DDPM in PyTorch.

    Args:
        contents: see `chosen_state`.
        preset: data of a published file, in `PRESETS`, which says the size of the images.
        weights: `"ema"`, the average, or `"raw"`; files of a bare state hold one alone.
        image_size: side of the images.
        beta_start: first beta.
        beta_end: last beta.
        steps: length of the chain.
        dropout: in training.

    Raises:
        ValueError: for an unknown preset, or without the size of the images.
        CheckpointError: if the weights do not fit.
    """
    image_size = side_of_images("DDPM", image_size, preset, PRESETS)
    state, facts = chosen_state(contents, weights)
    spec, channels = _spec(state, dropout)
    event_shape = (channels, image_size, image_size)
    taken = Taken(state)
    ours = unets.ddpm(outline(spec, event_shape), taken)
    taken.refuse_left()
    return Imported(
        "ddim",
        spec,
        event_shape,
        through(betas("linear", steps, beta_start, beta_end)),
        format_spec("ddpm", {"n": steps}),
        ours,
        scaling=images(),
        notes=(
            f"the chain is taken as published: {steps} steps, with betas from {beta_start:g} to "
            f"{beta_end:g}",
        ),
        facts=facts,
    )


def _spec(state: Mapping[str, Tensor], dropout: float) -> tuple[str, int]:
    """Spec of the network and channels of the images, read off the shapes.

    Raises:
        CheckpointError: if tensors are missing.
    """
    try:
        count = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("down."))
        widths = tuple(state[f"down.{i}.block.0.conv1.weight"].shape[0] for i in range(count))
        blocks = len({name.split(".")[3] for name in state if name.startswith("down.0.block.")})
        learned = count == 1 or "down.0.downsample.conv.weight" in state
        width, features = state["temb.dense.0.weight"].shape
        options: dict[str, object] = {
            "widths": widths,
            "blocks": blocks,
            "attention": tuple(f"down.{i}.attn.0.q.weight" in state for i in range(count)),
            "up_attention": "all",
            "down": "conv" if learned else "filter",
            "up": "conv" if learned else "filter",
            "dropout": dropout,
            "eps": 1e-6,
            "one_sided": True,
            "features": features,
            "stem_width": state["conv_in.weight"].shape[0],
            "embedding_width": width,
            "out_channels": state["conv_out.weight"].shape[0],
        }
        return format_spec("residual-unet", options), state["conv_in.weight"].shape[1]
    except (LookupError, ValueError) as error:
        raise CheckpointError(
            f"the layers are not those of DDPM in PyTorch: the file is truncated ({error})"
        ) from error


def _recognizes(contents: Contents) -> bool:
    state = raw_state(contents)
    return any(str(name).removeprefix("module.") == "temb.dense.0.weight" for name in state)


FAMILY = Family("ddim", _recognizes, read)
