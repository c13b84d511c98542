"""Names of the published U-Nets' weights: score_sde, EDM, ADM, DDPM's PyTorch family, diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from sde_score.interop.keys import (
    Dialect,
    Taken,
    concatenated,
    leaves,
    parts,
    read,
    rows,
)
from sde_score.nn.backbones.residual_unet import InputMerge, ResidualUNet
from sde_score.nn.blocks.attention import Attention
from sde_score.nn.blocks.layers import Modulation
from sde_score.nn.blocks.resampling import ConvDownsample, ConvUpsample
from sde_score.nn.blocks.residual import ResBlock


def _under(prefix: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": value for key, value in found.items()}


# score_sde


def _nin(taken: Taken, prefix: str) -> dict[str, Tensor]:
    """A layer of score_sde that maps channels: its weight is (in, out)."""
    return {"weight": taken(f"{prefix}.W").mT, "bias": taken(f"{prefix}.b")}


def _score_sde_attention(taken: Taken, prefix: str, heads: int) -> dict[str, Tensor]:
    qkv = concatenated([_nin(taken, f"{prefix}.NIN_{j}") for j in range(3)])
    return (
        _under("norm", taken.layer(f"{prefix}.GroupNorm_0"))
        | _under("qkv", qkv)
        | _under("out", _nin(taken, f"{prefix}.NIN_3"))
    )


SCORE_SDE = Dialect(
    {
        "norm1": "GroupNorm_0",
        "conv1": "Conv_0",
        "condition": "Dense_0",
        "norm2": "GroupNorm_1",
        "conv2": "Conv_1",
        "skip": "Conv_2",
    },
    _score_sde_attention,
)


def score_sde(net: ResidualUNet, taken: Taken) -> dict[str, Tensor]:
    """Our state from `all_modules.<number>`, numbered in the order of a forward pass.

    Blocks of DDPM's kind map skips by `NIN_0`, those of NCSN++ by `Conv_2`.
    """
    fourier = net.embedding.features.embedding == "fourier"
    numbers = sorted({int(key.split(".")[1]) for key in taken.state if key.startswith("all_")})
    places = iter(numbers[1:] if fourier else numbers)
    names = {}
    for part in parts(net):
        for path, _ in leaves(part):
            place = next(places, -1)
            conv = isinstance(part.module, (ConvDownsample, ConvUpsample, InputMerge))
            two = conv and f"all_modules.{place}.Conv2d_0.weight" in taken
            inner = (".Conv2d_0" if two else ".Conv_0") if conv else ""
            names[path] = f"all_modules.{place}{inner}"
    for name in [key for key in taken.state if ".NIN_0." in key and _is_block(taken, key)]:
        layer, kind = name.rsplit(".NIN_0.", 1)
        value = taken(name)
        ours = "weight" if kind == "W" else "bias"
        taken.state[f"{layer}.Conv_2.{ours}"] = value.mT if kind == "W" else value
    others = {"embedding.W": taken(f"all_modules.{numbers[0]}.W")} if fourier else None
    return read(net, taken, SCORE_SDE, names, others)


def _is_block(taken: Taken, key: str) -> bool:
    return key.split(".NIN_0")[0] + ".Conv_0.weight" in taken


# EDM


def _edm_attention(taken: Taken, prefix: str, heads: int) -> dict[str, Tensor]:
    qkv = taken.layer(f"{prefix}.qkv")
    return (
        _under("norm", taken.layer(f"{prefix}.norm2"))
        | {f"qkv.{key}": rows(value, heads, "heads channels three") for key, value in qkv.items()}
        | _under("out", taken.layer(f"{prefix}.proj"))
    )


EDM = Dialect(
    {
        "norm1": "norm0",
        "conv1": "conv0",
        "condition": "affine",
        "norm2": "norm1",
        "conv2": "conv1",
        "skip": "skip",
    },
    _edm_attention,
)


def edm(net: ResidualUNet, taken: Taken, prefix: str = "") -> dict[str, Tensor]:
    """Our state from a SongUNet's or a DhariwalUNet's; filters that are not trained are dropped."""
    song = f"{prefix}map_noise.freqs" in taken or f"{prefix}out_conv.weight" not in taken
    side = min(net.event_shape[1:])
    last = max(part.level for part in parts(net))

    def at(level: int) -> str:
        return f"{side >> max(level, 0)}x{side >> max(level, 0)}"

    fixed = {
        "embedding.first": "map_layer0",
        "embedding.second": "map_layer1",
        "embedding.augment": "map_augment",
        "stem": f"enc.{at(0)}_conv",
        "head.norm": f"dec.{at(0)}_aux_norm" if song else "out_norm",
        "head.conv": f"dec.{at(0)}_aux_conv" if song else "out_conv",
    }
    names = {}
    for part in parts(net):
        level, number = part.level, part.number
        for path, _ in leaves(part) if part.slot != "classes" else ():
            kind = path.rsplit(".", 1)[-1]
            by_slot = {
                "down": f"enc.{at(level + 1)}_down",
                "merge": f"enc.{at(level + 1)}_aux_{net.branches.input_branch}",
                "image": f"dec.{at(level)}_aux_{kind}",
                "up": f"dec.{at(level - 1)}_up",
            }
            if path in fixed:
                name = fixed[path]
            elif part.where == "middle":
                name = f"dec.{at(last)}_in{number}"
            else:
                side_of = "enc" if part.where == "down" else "dec"
                name = by_slot.get(part.slot, f"{side_of}.{at(level)}_block{number}")
            names[path] = prefix + name
    for key in [key for key in taken.state if key.endswith("resample_filter")]:
        taken(key)
    return read(net, taken, EDM, names, _edm_embedding(net, taken, prefix))


def _edm_embedding(net: ResidualUNet, taken: Taken, prefix: str) -> dict[str, Tensor]:
    """Frequencies, and the classes, which are columns of a linear layer of theirs."""
    found = {}
    if net.embedding.features.embedding == "fourier":
        found["embedding.W"] = taken(f"{prefix}map_noise.freqs") / 1
    if net.embedding.classes is not None:
        layer = taken.layer(f"{prefix}map_label")
        found["embedding.classes.weight"] = layer["weight"].mT
        if "bias" in layer:
            found["embedding.class_bias"] = layer["bias"]
    return found


# ADM


def _adm_attention(order: str) -> Callable[[Taken, str, int], dict[str, Tensor]]:
    def attention(taken: Taken, prefix: str, heads: int) -> dict[str, Tensor]:
        qkv = taken.layer(f"{prefix}.qkv")
        return (
            _under("norm", taken.layer(f"{prefix}.norm"))
            | {f"qkv.{key}": rows(value, heads, order) for key, value in qkv.items()}
            | _under("out", taken.layer(f"{prefix}.proj_out"))
        )

    return attention


_ADM_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "condition": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}


def adm(net: ResidualUNet, taken: Taken, new_order: bool) -> dict[str, Tensor]:
    """Our state from guided-diffusion, improved-diffusion or OpenAI's consistency models.

    Args:
        net: of the same sizes.
        taken: the checkpoint.
        new_order: rows of attention are queries, keys and values of all heads; False: of one head
            after the other.
    """
    names = {
        "embedding.first": "time_embed.0",
        "embedding.second": "time_embed.2",
        "embedding.classes": "label_emb",
        "stem": "input_blocks.0.0",
        "head.norm": "out.0",
        "head.conv": "out.2",
    }
    for part in parts(net):
        for path, module in leaves(part):
            if part.where not in ("down", "middle", "up"):
                continue
            place = int(part.path.split(".")[1])
            if part.where == "middle":
                names[path] = f"middle_block.{2 * place + (part.slot == 'attention')}"
            elif part.where == "down":
                inner = {"attention": "1", "down": "0" if isinstance(module, ResBlock) else "0.op"}
                names[path] = f"input_blocks.{place + 1}.{inner.get(part.slot, '0')}"
            else:
                attends = net.get_submodule(f"decoder.{place}").attention is not None
                up = f"{1 + attends}" + ("" if isinstance(module, ResBlock) else ".conv")
                inner = {"attention": "1", "up": up}
                names[path] = f"output_blocks.{place}.{inner.get(part.slot, '0')}"
    order = "three heads channels" if new_order else "heads three channels"
    return read(net, taken, Dialect(_ADM_BLOCK, _adm_attention(order)), names)


# DDPM in PyTorch, and diffusers


def _split_attention(
    names: dict[str, str],
) -> Callable[[Taken, str, int], dict[str, Tensor]]:
    def attention(taken: Taken, prefix: str, heads: int) -> dict[str, Tensor]:
        qkv = concatenated([_flat(taken.layer(f"{prefix}.{names[key]}")) for key in "qkv"])
        norm = f"{prefix}.{names['norm']}"
        return (
            (_under("norm", taken.layer(norm)) if f"{norm}.weight" in taken else {})
            | _under("qkv", qkv)
            | _under("out", taken.layer(f"{prefix}.{names['out']}"))
        )

    return attention


def _flat(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.flatten(1) if value.ndim > 2 else value for key, value in layer.items()}


DDPM = Dialect(
    {
        "norm1": "norm1",
        "conv1": "conv1",
        "condition": "temb_proj",
        "norm2": "norm2",
        "conv2": "conv2",
        "skip": "nin_shortcut",
    },
    _split_attention({"norm": "norm", "q": "q", "k": "k", "v": "v", "out": "proj_out"}),
)


def ddpm(net: ResidualUNet, taken: Taken) -> dict[str, Tensor]:
    """Our state from DDPM's networks in PyTorch (DDIM, DDRM, SDEdit)."""
    names = {
        "embedding.first": "temb.dense.0",
        "embedding.second": "temb.dense.1",
        "stem": "conv_in",
        "head.norm": "norm_out",
        "head.conv": "conv_out",
    }
    for part in parts(net):
        if part.where in ("down", "middle", "up"):
            level, number = part.level, part.number
            slot = {
                "block": f"block.{number}",
                "attention": f"attn.{number}",
                "down": "downsample.conv",
                "up": "upsample.conv",
            }[part.slot]
            if part.where == "middle":
                name = "mid.attn_1" if part.slot == "attention" else f"mid.block_{number + 1}"
            else:
                name = f"{part.where}.{level}.{slot}"
            names.update({path: name for path, _ in leaves(part)})
    return read(net, taken, DDPM, names)


_DIFFUSERS_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "condition": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}
_ATTENTIONS = (
    {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"},
    {"norm": "group_norm", "q": "query", "k": "key", "v": "value", "out": "proj_attn"},
)


def diffusers_names(net: ResidualUNet) -> dict[str, str]:
    """Names in a `UNet2DModel` of the modules of a network, by our paths."""
    names = {
        "embedding.first": "time_embedding.linear_1",
        "embedding.second": "time_embedding.linear_2",
        "embedding.classes": "class_embedding",
        "stem": "conv_in",
        "head.norm": "conv_norm_out",
        "head.conv": "conv_out",
    }
    count = 1 + max(part.level for part in parts(net))
    skips = net.branches.output_branch == "skip"
    for part in parts(net):
        for path, module in leaves(part):
            if part.where not in ("down", "middle", "up"):
                continue
            level, number = part.level, part.number
            block = isinstance(module, ResBlock)
            side_skip = net.branches.input_branch == "skip"
            if part.where == "middle":
                slot = "attentions.0" if part.slot == "attention" else f"resnets.{number}"
                names[path] = f"mid_block.{slot}"
            elif part.where == "down":
                down = "resnet_down" if side_skip else "downsamplers.0" + ("" if block else ".conv")
                inner = {"attention": f"attentions.{number}", "down": down, "merge": "skip_conv"}
                names[path] = f"down_blocks.{level}.{inner.get(part.slot, f'resnets.{number}')}"
            elif part.slot == "image" and level == 0:
                names[path] = "conv_norm_out" if path.endswith("norm") else "conv_out"
            else:
                up = "resnet_up" if skips else "upsamplers.0" + ("" if block else ".conv")
                image = "skip_norm" if path.endswith("norm") else "skip_conv"
                place = 0 if skips else number
                inner = {"attention": f"attentions.{place}", "up": up, "image": image}
                slot = inner.get(part.slot, f"resnets.{number}")
                names[path] = f"up_blocks.{count - 1 - level}.{slot}"
    return names


def diffusers(net: ResidualUNet, taken: Taken) -> dict[str, Tensor]:
    """Our state from a `UNet2DModel`, with the names of attention of any release."""
    old = any(key.endswith(".proj_attn.weight") for key in taken.state)
    others = {}
    if net.embedding.features.embedding == "fourier":
        name = "time_proj.weight" if "time_proj.weight" in taken else "time_proj.W"
        others["embedding.W"] = taken(name)
    dialect = Dialect(_DIFFUSERS_BLOCK, _split_attention(_ATTENTIONS[old]))
    return read(net, taken, dialect, diffusers_names(net), others)


def as_diffusers(net: ResidualUNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `UNet2DModel` from ours: the inverse of `diffusers`, by the same names."""
    names, attention, theirs = diffusers_names(net), _ATTENTIONS[False], {}
    for part in parts(net):
        for path, module in leaves(part):
            inner = {"": ""}
            if isinstance(module, ResBlock):
                scaled = ".linear" if isinstance(module.condition, Modulation) else ""
                inner = {
                    f".{ours}{scaled if ours == 'condition' else ''}": f".{name}"
                    for ours, name in _DIFFUSERS_BLOCK.items()
                }
            elif isinstance(module, Attention):
                inner = {f".{ours}": f".{attention[ours]}" for ours in ("norm", "out")}
            for ours, name in inner.items():
                for key in ("weight", "bias"):
                    if f"{path}{ours}.{key}" in state:
                        theirs[f"{names[path]}{name}.{key}"] = state[f"{path}{ours}.{key}"]
            if isinstance(module, Attention):
                for key in ("weight", "bias"):
                    rows_of = state[f"{path}.qkv.{key}"].chunk(3)
                    for letter, value in zip("qkv", rows_of, strict=True):
                        theirs[f"{names[path]}.{attention[letter]}.{key}"] = value
    return theirs
