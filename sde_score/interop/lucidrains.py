"""lucidrains' denoising-diffusion-pytorch: what its trainer saves, of 1.9 and later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import require_choice, require_count
from sde_score._core.registry import format_spec
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import Taken, fitted
from sde_score.interop.schedules import betas, through
from sde_score.nn import create as create_backbone
from sde_score.training.errors import CheckpointError

OBJECTIVES = {"pred_noise": "noise", "pred_x0": "data", "pred_v": "v"}
"""Its objectives, and our names of what the network answers."""

SCHEDULES = ("linear", "cosine", "sigmoid")

_DERIVED = (
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
"""Buffers that follow from the betas."""

_BLOCK = {"conv1": "block1.proj", "condition.linear": "mlp.1", "conv2": "block2.proj"}


def read(
    contents: Contents,
    weights: str | None = None,
    objective: str | None = None,
    image_size: int = 64,
    auto_normalize: bool = True,
    schedule: str | None = None,
    steps: int = 1000,
    groups: int = 8,
    theta: float = 10000.0,
    dropout: float = 0.0,
) -> Imported:
    """A network of lucidrains' trainer, of its `GaussianDiffusion`, or of its `Unet` alone.

    Args:
        contents: of the file.
        weights: `"ema"` or `"raw"`; None for the averaged ones where the file has them.
        objective: `"pred_noise"`, `"pred_x0"` or `"pred_v"`; None reads it off the loss weights.
        image_size: side of the images; the network takes any.
        auto_normalize: images in [-1, 1]; False for [0, 1].
        schedule: `"linear"`, `"cosine"` or `"sigmoid"`, for a file without betas.
        steps: length of the chain, for a file without betas.
        groups: of the normalizations of 1.9.
        theta: base of the frequencies of the time label.
        dropout: in training.

    Raises:
        ValueError: if something that the file does not say is missing.
        CheckpointError: for an older generation, or weights that do not fit.
    """
    require_count(image_size=image_size, groups=groups, steps=steps)
    chosen, diffusion, facts = _chosen(contents, weights)
    taken = Taken(diffusion)
    prefix = "model." if "model.init_conv.weight" in taken else ""
    _refuse_old(taken, prefix)
    notes = [
        f"weights: {chosen}",
        f"images: {image_size} x {image_size}, in {'[-1, 1]' if auto_normalize else '[0, 1]'}",
    ]
    values, found = _betas(taken, schedule, steps)
    objective = _objective(taken, values, objective)
    options, channels = _options(taken, prefix, groups, theta, dropout)
    if options["embedding"] == "positional":
        notes.append(f"frequencies of the time label: theta={theta:g}")
    if options["groups"] is not None:
        notes.append(f"groups of the normalizations: {groups}")
    if options["self_condition"]:
        notes.append(
            "self-conditioning: the estimate is zero unless condition['estimate'] is given"
        )
    spec = format_spec("lucidrains-unet", options)
    event_shape = (channels, image_size, image_size)
    with torch.device("meta"):
        net = create_backbone(spec, event_shape)
    state = fitted(net, _state(taken, prefix, options))
    taken.refuse_left()
    return Imported(
        "lucidrains",
        spec,
        event_shape,
        through(values),
        format_spec("ddpm", {"n": len(values), "output": OBJECTIVES[objective]}),
        state,
        scaling=images(-1.0 if auto_normalize else 0.0),
        notes=tuple(notes),
        facts={**facts, "weights": chosen, "objective": objective, "schedule": found},
    )


def _chosen(
    contents: Contents, weights: str | None
) -> tuple[str, Mapping[str, Tensor], dict[str, Any]]:
    """Which weights, the state of its `GaussianDiffusion` or `Unet`, and what the file says."""
    if contents.tensors:
        if weights is not None:
            raise ValueError(
                f"weights={weights!r}: {contents.path} holds one set of weights alone; leave it out"
            )
        return "the only ones", contents.tensors, {}
    content = contents.content
    weights = "ema" if weights is None and "ema" in content else weights or "raw"
    require_choice("weights", weights, ("ema", "raw"))
    facts = {key: content[key] for key in ("step", "version") if content.get(key) is not None}
    if weights == "raw":
        return "raw", content["model"], facts
    ema = content.get("ema") or {}
    start = "ema_model."
    found = {key.removeprefix(start): ema[key] for key in ema if key.startswith(start)}
    if not found:
        raise CheckpointError(
            f"{contents.path} holds no averaged weights: read it with weights='raw'"
        )
    return "ema", found, facts


def _refuse_old(taken: Taken, prefix: str) -> None:
    """Refuse generations before 1.9 and its other networks, by the names of their tensors.

    Raises:
        CheckpointError: with the generation, or the network.
    """
    for kind, one in {
        "for signals of one side (Unet1D)": taken(f"{prefix}init_conv.weight").ndim == 3,
        "with classifier-free guidance": f"{prefix}null_classes_emb" in taken,
    }.items():
        if one:
            raise CheckpointError(
                f"a network of denoising-diffusion-pytorch {kind}: only its Unet can be read"
            )
    signs = {
        "downs.0.2.fn.fn.to_qkv.weight": "before 1.8 (June 2023), with attention inside wrappers",
        "downs.0.0.ds_conv.weight": "of January to May 2022, of ConvNeXt blocks",
        "downs.0.0.block1.block.0.weight": "before 2022",
    }
    age = next((age for sign, age in signs.items() if prefix + sign in taken), None)
    if age is None and prefix + "downs.0.2.mem_kv" not in taken:
        age = "of 1.8 (June 2023), without memory in attention"
    if age is not None:
        raise CheckpointError(
            f"a checkpoint of denoising-diffusion-pytorch {age}: only those of 1.9 (October 2023) "
            "and later can be read"
        )


def _betas(taken: Taken, schedule: str | None, steps: int) -> tuple[Tensor, str]:
    """Betas in float64, and the name of their schedule.

    A file holds them in float32; where they are those of a schedule by name, its float64 table is
    taken, so that nothing is lost to rounding.
    """
    if "betas" not in taken:
        if schedule is None:
            raise ValueError(
                "the file has no betas: give schedule=..., one of "
                f"{', '.join(SCHEDULES)}, and steps=... (1000 unless told)"
            )
        require_choice("schedule", schedule, SCHEDULES)
        return betas(schedule, steps), schedule
    if schedule is not None:
        raise ValueError(f"schedule={schedule!r}: the file has its betas; leave it out")
    stored = taken("betas").double()
    for name in _DERIVED:
        if name in taken:
            taken(name)
    for name in SCHEDULES:
        exact = betas(name, len(stored))
        # The last betas of a sigmoid show that its ends were float32 numbers already.
        if torch.allclose(exact, stored, rtol=5e-5, atol=0):
            return exact, name
    return stored, "of the file"


def _objective(taken: Taken, values: Tensor, objective: str | None) -> str:
    """The objective, from the loss weights unless it is given.

    With the ratio snr they are 1 (noise), snr (data) or snr / (1 + snr) (v), where snr in the
    numerator may have been capped, as in https://arxiv.org/abs/2303.09556.
    """
    weight = taken("loss_weight").double() if "loss_weight" in taken else None
    if objective is not None:
        require_choice("objective", objective, tuple(OBJECTIVES))
        return objective
    if weight is None:
        raise ValueError(
            f"the file does not say its objective: give objective=..., of {', '.join(OBJECTIVES)}"
        )
    log_alpha2 = torch.log1p(-values).cumsum(0)
    snr = torch.exp(log_alpha2) / -torch.expm1(log_alpha2)
    capped = {"pred_noise": weight * snr, "pred_x0": weight, "pred_v": weight * (1 + snr)}
    fitting = [
        name
        for name, top in capped.items()
        if torch.allclose(top, snr.clamp(max=float(top.max())), rtol=2e-3, atol=0)
    ]
    if len(fitting) != 1:
        raise ValueError(
            "the loss weights of the file are of no single objective: give objective=..., of "
            f"{', '.join(OBJECTIVES)}"
        )
    return fitting[0]


def _options(
    taken: Taken, prefix: str, groups: int, theta: float, dropout: float
) -> tuple[dict[str, Any], int]:
    """Options of our network and channels of the images, read off the shapes."""

    def shape(name: str) -> torch.Size:
        return taken(prefix + name).shape

    count = 1 + max(
        (int(key.removeprefix(prefix).split(".")[1]) for key in taken.state if ".mem_kv" in key
         and key.startswith(f"{prefix}downs.")),
        default=0,
    )  # fmt: skip
    fourier = f"{prefix}time_mlp.0.weights" in taken
    base = shape("time_mlp.1.weight")[0] // 4
    onward = [f"downs.{i}.3.1" if i < count - 1 else f"downs.{i}.3" for i in range(count)]
    widths = [shape(f"{name}.weight")[0] for name in onward]
    if any(width % base for width in widths):
        raise CheckpointError(
            f"the levels have {widths} channels, which are no multiples of {base}, a quarter of "
            "the time embedding: not a network of denoising-diffusion-pytorch"
        )
    full = [f"{prefix}downs.{i}.2.to_out.weight" in taken for i in range(count)]
    memories = [shape(f"downs.{i}.2.mem_kv") for i in range(count)]
    wide, out = shape("init_conv.weight")[1], shape("final_conv.weight")[0]
    channels = min(wide, out)
    if (wide, out) not in (
        (channels, channels),
        (2 * channels, channels),
        (channels, 2 * channels),
    ):
        raise CheckpointError(
            f"the network takes {wide} channels and answers {out}; accepted: as many, or twice as "
            "many in (self-conditioning) or out (learned variance)"
        )
    return {
        "base": base,
        "multipliers": tuple(width // base for width in widths),
        "stem": shape("init_conv.weight")[0],
        "full_attention": tuple(full),
        "heads": tuple(memory[1] for memory in memories),
        "head_channels": tuple(
            memory[3 if one else 2] for memory, one in zip(memories, full, strict=True)
        ),
        "memory": memories[0][2 if full[0] else 3],
        "groups": groups if f"{prefix}downs.0.0.block1.norm.weight" in taken else None,
        "embedding": "fourier" if fourier else "positional",
        "features": 2 * shape("time_mlp.0.weights")[0] if fourier else 16,
        "theta": theta,
        "self_condition": wide > channels,
        "dropout": dropout,
        "out_channels": out,
    }, channels


def _state(taken: Taken, prefix: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Our state from theirs."""
    state: dict[str, Tensor] = {}

    def layer(ours: str, theirs: str) -> None:
        found = taken.layer(prefix + theirs)
        state.update({f"{ours}.{key}": value for key, value in found.items()})

    def norm(ours: str, theirs: str) -> None:
        if f"{prefix}{theirs}.g" in taken:
            state[f"{ours}.g"] = taken(f"{prefix}{theirs}.g")
        else:
            layer(ours, theirs)

    def block(ours: str, theirs: str) -> None:
        for name, other in _BLOCK.items():
            layer(f"{ours}.{name}", f"{theirs}.{other}")
        for number in (1, 2):
            norm(f"{ours}.norm{number}", f"{theirs}.block{number}.norm")
        if f"{prefix}{theirs}.res_conv.weight" in taken:
            layer(f"{ours}.skip", f"{theirs}.res_conv")

    def attention(ours: str, theirs: str, full: bool) -> None:
        memory = taken(f"{prefix}{theirs}.mem_kv")
        state[f"{ours}.memory"] = memory if full else memory.mT
        norm(f"{ours}.norm", f"{theirs}.norm")
        layer(f"{ours}.qkv", f"{theirs}.to_qkv")
        layer(f"{ours}.out", f"{theirs}.to_out" if full else f"{theirs}.to_out.0")
        if not full:
            norm(f"{ours}.out_norm", f"{theirs}.to_out.1")

    if options["embedding"] == "fourier":
        state["embedding.W"] = taken(f"{prefix}time_mlp.0.weights")
    for name, place in (("first", 1), ("second", 3)):
        layer(f"embedding.{name}", f"time_mlp.{place}")
    for ours, theirs in (("stem", "init_conv"), ("head", "final_conv")):
        layer(ours, theirs)
    full = options["full_attention"]
    last = len(full) - 1
    for i in range(last + 1):
        for ours, theirs, attends in (
            ("encoder", "downs", full[i]),
            ("decoder", "ups", full[last - i]),
        ):
            block(f"{ours}.{i}.first", f"{theirs}.{i}.0")
            block(f"{ours}.{i}.second", f"{theirs}.{i}.1")
            attention(f"{ours}.{i}.attention", f"{theirs}.{i}.2", attends)
        layer(f"encoder.{i}.onward" + (".conv" if i < last else ""), _onward("downs", i, last))
        layer(f"decoder.{i}.onward" + (".conv" if i < last else ""), _onward("ups", i, last))
    block("middle1", "mid_block1")
    attention("middle_attention", "mid_attn", True)
    block("middle2", "mid_block2")
    block("last", "final_res_block")
    return state


def _onward(side: str, level: int, last: int) -> str:
    return f"{side}.{level}.3.1" if level < last else f"{side}.{level}.3"


def _recognizes(contents: Contents) -> bool:
    content = contents.content
    state = contents.tensors
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        state = content["model"]
    return any(f"{prefix}init_conv.weight" in state for prefix in ("", "model.")) and any(
        key.endswith("final_conv.weight") or ".final_conv." in key for key in state
    )


FAMILY = Family("lucidrains", _recognizes, read)
