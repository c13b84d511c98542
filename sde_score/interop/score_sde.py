"""score_sde: checkpoints of NCSN++, DDPM++ and DDPM, `.pth` of score_sde_pytorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import require_choice
from sde_score._core.registry import format_spec
from sde_score.interop import unets
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import Taken, outline
from sde_score.interop.schedules import betas, through
from sde_score.interop.score_sde_layers import Layers
from sde_score.interop.trainers import chosen_state, raw_state
from sde_score.sdes import SDE, VE, VP, SubVP
from sde_score.training.errors import CheckpointError

HALF = 0.5**0.5


@dataclass(frozen=True)
class Published:
    """What the weights of a published configuration do not say.

    Args:
        image_size: side of the images.
        sde: `"ve"`, `"vp"` or `"subvp"`.
        continuous: trained at all times instead of at 1000 of them.
        network: `"ncsnpp"`, also for DDPM++, or `"ddpm"`.
        fir: resampled by the filter (1, 3, 3, 1).
    """

    image_size: int
    sde: str
    continuous: bool = True
    network: str = "ncsnpp"
    fir: bool = False


PRESETS: dict[str, Published] = {
    "ve/cifar10_ncsnpp": Published(32, "ve", False, fir=True),
    "ve/cifar10_ncsnpp_continuous": Published(32, "ve", fir=True),
    "ve/cifar10_ncsnpp_deep_continuous": Published(32, "ve", fir=True),
    "ve/cifar10_ddpm": Published(32, "ve", False, "ddpm"),
    "ve/celeba_ncsnpp": Published(64, "ve", False, fir=True),
    "ve/bedroom_ncsnpp_continuous": Published(256, "ve", fir=True),
    "ve/church_ncsnpp_continuous": Published(256, "ve", fir=True),
    "ve/celebahq_256_ncsnpp_continuous": Published(256, "ve", fir=True),
    "ve/ffhq_256_ncsnpp_continuous": Published(256, "ve", fir=True),
    "ve/celebahq_ncsnpp_continuous": Published(1024, "ve", fir=True),
    "ve/ffhq_ncsnpp_continuous": Published(1024, "ve", fir=True),
    "vp/cifar10_ddpmpp": Published(32, "vp", False),
    "vp/cifar10_ddpmpp_continuous": Published(32, "vp"),
    "vp/cifar10_ddpmpp_deep_continuous": Published(32, "vp"),
    "vp/cifar10_ncsnpp": Published(32, "vp", False, fir=True),
    "vp/cifar10_ncsnpp_continuous": Published(32, "vp", fir=True),
    "vp/cifar10_ncsnpp_deep_continuous": Published(32, "vp", fir=True),
    "vp/ddpm/cifar10": Published(32, "vp", False, "ddpm"),
    "vp/ddpm/cifar10_continuous": Published(32, "vp", True, "ddpm"),
    "vp/ddpm/cifar10_unconditional": Published(32, "vp", False, "ddpm"),
    "vp/ddpm/bedroom": Published(256, "vp", False, "ddpm"),
    "vp/ddpm/church": Published(256, "vp", False, "ddpm"),
    "vp/ddpm/celebahq": Published(256, "vp", False, "ddpm"),
    "subvp/cifar10_ddpm_continuous": Published(32, "subvp", True, "ddpm"),
    "subvp/cifar10_ddpmpp_continuous": Published(32, "subvp"),
    "subvp/cifar10_ddpmpp_deep_continuous": Published(32, "subvp"),
    "subvp/cifar10_ncsnpp_continuous": Published(32, "subvp", fir=True),
    "subvp/cifar10_ncsnpp_deep_continuous": Published(32, "subvp", fir=True),
}
"""Published configurations, by their names."""

_UNIT_RANGE = (
    "the noise levels of the file are of images in [0, 1], as published; here images are in "
    "[-1, 1] and noise levels twice as large"
)


def read(
    contents: Contents,
    preset: str | None = None,
    weights: str = "ema",
    image_size: int | None = None,
    sde: str | None = None,
    continuous: bool | None = None,
    network: str | None = None,
    fir: bool | None = None,
    skip_rescale: bool | None = None,
    centered: bool | None = None,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    dropout: float = 0.0,
) -> Imported:
    """A network of score_sde_pytorch.

    Args:
        contents: see `chosen_state`.
        preset: name of a published configuration in `PRESETS`, which says what the next five do.
        weights: `"ema"`, the average, or `"raw"`.
        image_size: side of the images.
        sde: `"ve"`, `"vp"` or `"subvp"`; networks with random frequencies are VE.
        continuous: whether a VP network was trained at all times.
        network: `"ncsnpp"` (also of DDPM++) or `"ddpm"`, where the layers are those of both.
        fir: whether resampling has the filter (1, 3, 3, 1), where no layer shows it.
        skip_rescale: whether sums are multiplied by sqrt(1/2); None as published: in NCSN++ and
            DDPM++, not in DDPM.
        centered: whether a VE network saw images in [-1, 1]; None as published: in [0, 1].
        beta_min: of VP and sub-VP.
        beta_max: of VP and sub-VP.
        dropout: in training.

    Raises:
        ValueError: for an unknown preset, or if something that the file does not say is missing.
        CheckpointError: if the weights do not fit.
    """
    if preset is not None:
        require_choice("preset", preset, tuple(PRESETS))
    state, facts = chosen_state(contents, weights)
    sigmas = state.pop("sigmas", None)
    state, notes = _with_time(state)
    found = Layers.of(state)
    names = ("image_size", "sde", "continuous", "network", "fir")
    asked = dict(zip(names, (image_size, sde, continuous, network, fir), strict=True))
    given = _settled(found, asked, preset)
    rescale = given.network == "ncsnpp" if skip_rescale is None else skip_rescale
    spec = _spec(found, given, rescale, dropout)
    event_shape = (found.channels, given.image_size, given.image_size)
    taken = Taken(state)
    weights_of_ours = unets.score_sde(outline(spec, event_shape), taken)
    taken.refuse_left()
    diffusion, prediction = _diffusion(given, sigmas, bool(centered), beta_min, beta_max)
    if skip_rescale is None:
        notes.append(f"skip_rescale={rescale} is taken as published for {given.network!r}")
    if given.sde == "ve" and centered is None:
        notes.append(_UNIT_RANGE)
    if given.sde != "ve":
        notes.append(f"beta_min={beta_min:g} and beta_max={beta_max:g} are taken as published")
    return Imported(
        "score_sde",
        spec,
        event_shape,
        diffusion,
        prediction,
        weights_of_ours,
        scaling=images(),
        notes=tuple(notes),
        facts=facts,
    )


def _with_time(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A network that is told no time (`conditional=False`), as one whose embedding is zero; others
    as they are; and what to say of it.

    Its first layer is the convolution, and the layers of its blocks for the embedding are not used.
    """
    first = state.get("all_modules.0.weight")
    if first is None or first.ndim != 4:
        return state, []
    base, found = len(first), {}
    for number, inputs in enumerate((base, 4 * base)):
        found[f"all_modules.{number}.weight"] = torch.zeros(4 * base, inputs)
        found[f"all_modules.{number}.bias"] = torch.zeros(4 * base)
    for name, value in state.items():
        folder, number_of, layer = name.split(".", 2)
        unused = layer == "Dense_0.bias"
        kept = torch.zeros_like(value) if unused else value
        found[f"{folder}.{int(number_of) + 2}.{layer}"] = kept
    return found, ["the network is told no time: its embedding is zero"]


def _settled(found: Layers, asked: Mapping[str, Any], preset: str | None) -> Published:
    """Everything that `Published` says, from the layers, the options and the preset, in turn.

    Raises:
        ValueError: if something is missing.
        CheckpointError: if the layers say something else than was asked for.
    """
    given: dict[str, Any] = asdict(PRESETS[preset]) if preset else {}
    given.update({key: value for key, value in asked.items() if value is not None})
    shown = {"network": found.network, "fir": found.fir, "sde": "ve" if found.fourier else None}
    for key, value in shown.items():
        if value is not None and given.setdefault(key, value) != value:
            raise CheckpointError(
                f"the layers of the checkpoint are those of {key}={value!r}, but "
                f"{key}={given[key]!r} was asked for" + (f" by preset={preset!r}" if preset else "")
            )
    if given.get("network") == "ddpm":
        given["fir"] = False
    if found.output_branch == "skip":  # as in every published one
        given.setdefault("fir", True)
    if given.get("sde") == "ve" and given.setdefault("continuous", found.fourier) != found.fourier:
        raise CheckpointError(
            "VE networks of random frequencies are told any noise level, those of fixed ones the "
            f"index of one of a table: continuous={given['continuous']} was asked for, but the "
            f"file has {'random' if found.fourier else 'fixed'} ones"
        )
    if given.get("sde") == "subvp":
        given.setdefault("continuous", True)
    lacking = [key for key in Published.__dataclass_fields__ if key not in given]
    if lacking:
        raise ValueError(
            f"weights of score_sde do not say {', '.join(lacking)}: give them, as in "
            "load(path, sde='vp', ...), or preset=..., one of " + ", ".join(PRESETS)
        )
    require_choice("sde", given["sde"], ("ve", "vp", "subvp"))
    require_choice("network", given["network"], ("ncsnpp", "ddpm"))
    return Published(**given)


def _spec(found: Layers, given: Published, rescale: bool, dropout: float) -> str:
    """Our spec of the network."""
    song = given.network == "ncsnpp"
    options: dict[str, object] = {
        "widths": found.widths,
        "blocks": found.blocks,
        "attention": found.attention,
        "up_attention": "last",
        "down": found.way,
        "up": found.way,
        "dropout": dropout,
        "channels_per_group": 4 if song else 1,
        "eps": 1e-6,
        "scale": HALF if rescale else 1.0,
        "fir": given.fir,
        "projects_resampled": True,
        "one_sided": not given.fir,
        "embedding": "fourier" if found.fourier else "positional",
        "features": found.features,
        "embedding_width": found.embedding_width,
        "input_branch": found.input_branch,
        "output_branch": found.output_branch,
        "concatenate": found.concatenate,
        "stem_width": found.base,
    }
    return format_spec("residual-unet", options)


def _diffusion(
    given: Published,
    sigmas: Tensor | None,
    centered: bool,
    beta_min: float,
    beta_max: float,
) -> tuple[SDE, str]:
    """The SDE, and the parametrization on it.

    Raises:
        CheckpointError: for a VE network without its noise levels.
    """
    if given.sde == "subvp":
        return SubVP(beta_min, beta_max), "score-sde-vp"
    if given.sde == "vp" and given.continuous:
        return VP(beta_min, beta_max), "score-sde-vp"
    count = 1000 if sigmas is None else len(sigmas)
    if given.sde == "vp":
        steps = betas("linear", count, beta_min / count, beta_max / count)
        return through(steps), format_spec("ddpm", {"n": count})
    if sigmas is None or count < 2 or not bool((sigmas[:-1] > sigmas[1:]).all() and sigmas[-1] > 0):
        raise CheckpointError(
            "the checkpoint has no decreasing noise levels 'sigmas', which a VE network needs"
        )
    unit = 1.0 if centered else 2.0
    diffusion = VE(unit * float(sigmas[-1]), unit * float(sigmas[0]))
    if given.continuous:
        return diffusion, format_spec("score-sde-ve", {"unit_level": unit})
    return diffusion, format_spec("score-sde-ve-discrete", {"n": count})


def _recognizes(contents: Contents) -> bool:
    return any("all_modules.0." in str(name) for name in raw_state(contents))


FAMILY = Family("score_sde", _recognizes, read)
