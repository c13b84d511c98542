"""U-ViT's checkpoints: one file of weights, or the folder of its trainer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sde_score._core.checks import require_choice
from sde_score._core.registry import format_spec
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import Taken, fitted, sketch
from sde_score.interop.schedules import betas, through
from sde_score.scaling import Scaling
from sde_score.sdes import SDE, VP
from sde_score.training.errors import CheckpointError

PRESETS: dict[str, dict[str, object]] = {
    "cifar10-small": {"heads": 8, "chain": "vp"},
    "celeba64-small": {"heads": 8, "chain": "vp"},
    "imagenet64-mid": {"heads": 12, "chain": "vp", "null_class": False},
    "imagenet64-large": {"heads": 16, "chain": "vp", "null_class": False},
    "imagenet256-large": {"heads": 16, "chain": "stable-diffusion", "null_class": True},
    "imagenet256-huge": {"heads": 16, "chain": "stable-diffusion", "null_class": True},
    "imagenet512-large": {"heads": 16, "chain": "stable-diffusion", "null_class": True},
    "imagenet512-huge": {"heads": 16, "chain": "stable-diffusion", "null_class": True},
}
"""What the weights of published files do not say, by the names of the files."""

_LATENTS = (
    "the data are taken as they are (scaling is the identity): networks of four channels see "
    "latents of Stable Diffusion's autoencoder, times 0.18215"
)

_PIXELS = "the data range [-1, 1] is taken as published"


def read(
    contents: Contents,
    preset: str | None = None,
    heads: int | None = None,
    chain: str | None = None,
    null_class: bool | None = None,
    weights: str = "ema",
) -> Imported:
    """A transformer with long skips.

    Args:
        contents: of a bare state, or of a folder with `nnet.pth` and `nnet_ema.pth`.
        preset: name of a published file in `PRESETS`, which says what the next three do.
        heads: number of heads.
        chain: `"vp"`, the VP SDE with time labels 999 t; or `"stable-diffusion"`, the 1000 betas of
            latent networks, whose labels count from 1.
        null_class: whether the last row of the table of classes is for no class, as in networks
            that were trained with dropped labels.
        weights: of a folder, `"ema"` or `"raw"`.

    Raises:
        ValueError: for an unknown preset, or if something that the file does not say is missing.
        CheckpointError: if the weights do not fit.
    """
    if preset is not None:
        require_choice("preset", preset, tuple(PRESETS))
    require_choice("weights", weights, ("ema", "raw"))
    asked = {"heads": heads, "chain": chain, "null_class": null_class}
    given = dict(PRESETS[preset]) if preset else {}
    given.update({key: value for key, value in asked.items() if value is not None})
    taken = Taken(_state(contents, weights))
    classes = "label_emb.weight" in taken
    needed = ("heads", "chain", "null_class") if classes else ("heads", "chain")
    lacking = [key for key in needed if key not in given]
    if lacking:
        raise ValueError(
            f"weights of U-ViT do not say {', '.join(lacking)}: give them, or preset=..., one of "
            f"{', '.join(PRESETS)}"
        )
    require_choice("chain", str(given["chain"]), ("vp", "stable-diffusion"))
    null = classes and bool(given["null_class"])
    options, shape, count = _options(taken, int(str(given["heads"])), null)
    spec = format_spec("uvit", options)
    state = _renamed(taken, int(str(options["depth"])) // 2)
    taken.refuse_left()
    sde, prediction = _process(str(given["chain"]))
    pixels = shape[0] != 4
    return Imported(
        "uvit",
        spec,
        shape,
        sde,
        prediction,
        fitted(sketch(spec, shape, count), state),
        scaling=images() if pixels else Scaling(),
        num_classes=count,
        needs_condition=classes and not null,
        notes=(_PIXELS if pixels else _LATENTS,),
        facts={"step": contents.content["step"]} if "step" in (contents.content or {}) else {},
    )


def _process(chain: str) -> tuple[SDE, str]:
    """The diffusion, and the parametrization."""
    if chain == "vp":
        return VP(), "score-sde-vp"
    return (
        through(betas("scaled_linear", 1000, 0.00085, 0.012)),
        format_spec("score-sde-vp", {"factor": 1000.0}),
    )


def _state(contents: Contents, weights: str) -> Mapping[str, Tensor]:
    if contents.tensors:
        return contents.tensors
    name = "nnet_ema" if weights == "ema" else "nnet"
    if name not in contents.content:
        raise CheckpointError(
            f"{contents.path} holds no {name}.pth, which weights={weights!r} asks for; it holds "
            f"{', '.join(sorted(contents.content))}"
        )
    found: Mapping[str, Tensor] = contents.content[name]
    return found


def _options(
    taken: Taken, heads: int, null_class: bool
) -> tuple[dict[str, object], tuple[int, int, int], int]:
    """Options of the network, shape of the images and number of classes, read off the shapes."""
    width, channels, patch, _ = taken.sizes("patch_embed.proj.weight", 4)
    rows = taken.sizes("label_emb.weight", 2)[0] if "label_emb.weight" in taken else 0
    places = taken.sizes("pos_embed", 3)[1] - 1 - (rows > 0)
    side = round(max(places, 0) ** 0.5) * patch
    if (side // patch) ** 2 != places:
        raise CheckpointError(
            f"pos_embed has {places} places beside the time label"
            f"{' and the class' if rows else ''}, which is no square of patches: other tokens, "
            "such as words, are not known"
        )
    options: dict[str, object] = {
        "width": width,
        "depth": 2 * taken.numbered("in_blocks."),
        "heads": heads,
        "patch": patch,
        "mlp_ratio": taken.sizes("mid_block.mlp.fc1.weight", 2)[0] / width,
        "qkv_bias": "mid_block.attn.qkv.bias" in taken,
        "embeds_time": "time_embed.0.weight" in taken,
        "last_convolution": "final_layer.weight" in taken,
        "null_class": null_class,
    }
    return options, (channels, side, side), rows - null_class


_PLAIN = {
    "embedding.classes": "label_emb",
    "embedding.time.0": "time_embed.0",
    "embedding.time.2": "time_embed.2",
    "patches.conv": "patch_embed.proj",
    "norm": "norm",
    "head": "decoder_pred",
    "smooth": "final_layer",
}
_OPTIONAL = {"label_emb", "time_embed.0", "time_embed.2", "final_layer"}
_BLOCK = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "norm2": "norm2",
    "mlp.inner": "mlp.fc1",
    "mlp.outer": "mlp.fc2",
}


def _renamed(taken: Taken, half: int) -> dict[str, Tensor]:
    """Our state; the rows of attention are in our order."""
    names = {
        ours: theirs
        for ours, theirs in _PLAIN.items()
        if theirs not in _OPTIONAL or f"{theirs}.weight" in taken
    }
    for place in range(half):
        names[f"second.{place}.skip"] = f"out_blocks.{place}.skip_linear"
    blocks = {"middle": "mid_block"}
    for place in range(half):
        blocks[f"first.{place}"] = f"in_blocks.{place}"
        blocks[f"second.{place}"] = f"out_blocks.{place}"
    names.update(
        {
            f"{ours}.{part}": f"{theirs}.{name}"
            for ours, theirs in blocks.items()
            for part, name in _BLOCK.items()
        }
    )
    state = {
        f"{ours}.{key}": value
        for ours, theirs in names.items()
        for key, value in taken.layer(theirs).items()
    }
    state["positions"] = taken("pos_embed")
    return state


def _recognizes(contents: Contents) -> bool:
    theirs = ("patch_embed.proj.weight", "in_blocks.0.norm1.weight", "decoder_pred.weight")
    if contents.has(*theirs):
        return True
    content = contents.content
    if not isinstance(content, Mapping):
        return False
    return any(
        isinstance(content.get(name), Mapping) and all(key in content[name] for key in theirs)
        for name in ("nnet_ema", "nnet")
    )


FAMILY = Family("uvit", _recognizes, read)
