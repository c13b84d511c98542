"""Checkpoints of score_sde_pytorch: the recorded answers, and what a file does not say."""

from __future__ import annotations

import pytest
import torch

from sde_score import interop
from sde_score.interop.score_sde import PRESETS
from sde_score.training.errors import CheckpointError

# The first ships with the repository.
NETS = [
    "net_ncsnpp_ve_ddpmblock_fir_noconv",
    "net_ddpm_vp",
    "net_ddpmpp_vp",
    "net_ncsnpp_ve",
    "net_ncsnpp_ve_input_skip_cat",
    "net_ncsnpp_ve_output_skip_input_skip",
    "net_ncsnpp_ve_positional_discrete",
    "net_ncsnpp_vp",
    "net_ncsnpp_vp_ddpmblock",
    "net_ncsnpp_vp_residual_nofir",
]
SHIPPED = NETS[0]
# Not among the weights that were averaged.
LEFT_OUT = ("sigmas", "all_modules.0.W")
OPTIONS = {"sde": "ve", "image_size": 16, "fir": True}


def options_of(config):
    """What the weights of a configuration do not say."""
    model, training = config["model"], config["training"]
    ncsnpp = model["name"] == "ncsnpp"
    return {
        "image_size": config["data"]["image_size"],
        "sde": training["sde"].removesuffix("sde"),
        "continuous": training["continuous"],
        "network": model["name"],
        "fir": ncsnpp and model["fir"],
        "skip_rescale": ncsnpp and model["skip_rescale"],
    }


def state_of(arrays):
    return {
        name.removeprefix("state."): value
        for name, value in arrays.items()
        if name.startswith("state.")
    }


@pytest.fixture
def state(reference):
    """Weights of a small VE network, by its names."""
    return state_of(reference(SHIPPED)[0])


@pytest.fixture
def save(tmp_path):
    """Write a file and return its path."""

    def write(content):
        torch.save(content, tmp_path / "checkpoint.pth")
        return tmp_path / "checkpoint.pth"

    return write


def checkpoint(state):
    """A checkpoint as the trainer writes it, whose average is twice what was trained."""
    shadows = [2 * value for name, value in state.items() if name not in LEFT_OUT]
    return {
        "optimizer": {"param_groups": [{"lr": 1e-3}]},
        "model": {f"module.{name}": value for name, value in state.items()},
        "ema": {"decay": 0.9, "num_updates": 3, "shadow_params": shadows},
        "step": 3,
    }


@pytest.mark.parametrize("name", NETS)
def test_networks_answer_as_recorded(name, reference, save, matches):
    arrays, description = reference(name)
    config = description["params"]["config"]
    state = state_of(arrays)
    path = save({f"module.{key}": value for key, value in state.items()})
    imported = interop.load(path, **options_of(config))
    labels, ve = arrays["labels"], config["training"]["sde"] == "vesde"
    sigmas = state["sigmas"]

    def answer(model, dtype):
        x = 2 * arrays["x"] - 1 if ve else arrays["x"]
        fourier = "embedding.W" in imported.state
        label = labels.log() if fourier else labels
        out = model.backbone(x.to(dtype), label.to(dtype))
        if not ve:
            return out
        sigma = labels if fourier else sigmas[labels.long()]
        return out / sigma.to(dtype)[:, None, None, None]

    matches(imported, answer, arrays["output_f64"])


def test_score_of_a_model_is_the_recorded_one(reference, save, matches):
    """Images in [-1, 1] have twice the noise and half the score of images in [0, 1]."""
    arrays, _ = reference("net_ncsnpp_ve_ddpmblock_fir_noconv")
    imported = interop.load(save(state_of(arrays)), **OPTIONS)
    assert imported.sde.sigma_max == pytest.approx(100)

    def answer(model, dtype):
        t = model.sde.time_of_noise_ratio(2 * arrays["labels"])
        return 2 * model.score((2 * arrays["x"] - 1).to(dtype), t)

    matches(imported, answer, arrays["output_f64"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("checkpoint_ve", {"sde": "ve"}),
        ("checkpoint_vp", {"preset": "vp/cifar10_ddpmpp_continuous"}),
    ],
)
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_checkpoints_answer_as_recorded(name, options, weights, reference, recorded_file, matches):
    arrays, _ = reference(name)
    path = recorded_file(f"{name}.pth")
    imported = interop.load(path, weights=weights, image_size=16, fir=name[-1] == "e", **options)
    x, labels = arrays["x"], arrays["labels"]

    def answer(model, dtype):
        if name == "checkpoint_vp":
            return model.backbone(x.to(dtype), labels.to(dtype))
        return 2 * model.score((2 * x - 1).to(dtype), model.sde.time_of_noise_ratio(2 * labels))

    matches(imported, answer, arrays[f"{weights}.output_f64"])
    assert imported.facts["step"] == arrays["step"]


def test_average_takes_the_place_of_all_that_was_trained(state, save):
    path = save(checkpoint(state))
    ema, raw = (interop.load(path, weights=kind, **OPTIONS).state for kind in ("ema", "raw"))
    for name, value in raw.items():
        factor = 1 if name == "embedding.W" else 2
        torch.testing.assert_close(ema[name], factor * value, rtol=0, atol=0)


def test_average_of_another_network_is_refused(state, save):
    content = checkpoint(state)
    shadows = content["ema"]["shadow_params"]
    for wrong in (shadows[1:], shadows[::-1], [*shadows[:-1], 3], None):
        content["ema"]["shadow_params"] = wrong
        with pytest.raises(ValueError, match="weights='raw'"):
            interop.load(save(content), **OPTIONS)


def test_imported_model_works(state, save, usable):
    usable(interop.load(save(state), **OPTIONS))


def test_what_a_file_does_not_say_is_asked_for(save, state):
    with pytest.raises(ValueError, match=r"image_size.*preset="):
        interop.load(save(state))
    with pytest.raises(ValueError, match="preset"):
        interop.load(save(state), preset="ve/mnist")
    with pytest.raises(ValueError, match="weights"):
        interop.load(save(state), weights="mean", **OPTIONS)
    with pytest.raises(ValueError, match="size"):
        interop.load(save(state), size=3)


def test_layers_overrule_no_option_in_silence(state, save):
    """The network has random frequencies, which only VE networks have."""
    for wrong in (
        {"sde": "vp"},
        {"preset": "vp/cifar10_ddpmpp"},
        {"preset": "ve/cifar10_ncsnpp"},
        {"continuous": False},
    ):
        with pytest.raises(CheckpointError, match="asked for"):
            interop.load(save(state), **{"image_size": 16, **wrong})


@pytest.mark.parametrize("break_", ["missing", "extra", "shape", "sigmas", "middle", "foreign"])
def test_damaged_weights_are_refused(break_, state, save):
    conv = next(name for name in state if name.endswith("Conv_1.weight"))
    if break_ == "missing":
        del state[conv]
    elif break_ == "extra":
        state["all_modules.5.Conv_7.weight"] = torch.zeros(2)
    elif break_ == "shape":
        state[conv] = state[conv][:, 1:]
    elif break_ == "sigmas":
        state["sigmas"] = state["sigmas"].flip(0)
    elif break_ == "middle":
        number = max(int(name.split(".")[1]) for name in state if "NIN_3" in name)
        state = {k: v for k, v in state.items() if not k.startswith(f"all_modules.{number}.")}
    else:
        state["other.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError):
        interop.load(save(state), **OPTIONS)


def test_discrete_and_continuous_networks_have_their_labels(reference, save):
    """A VP network trained at 1000 times counts them; its chain has score_sde's betas."""
    arrays, _ = reference(NETS[2])
    path = save(state_of(arrays))
    asked = {"image_size": 16, "fir": False}
    counted = interop.load(path, preset="vp/cifar10_ddpmpp", **asked)
    timed = interop.load(path, preset="vp/cifar10_ddpmpp_continuous", **asked)
    assert (counted.prediction, timed.prediction) == ("ddpm(n=1000)", "score-sde-vp")
    at = torch.tensor([0.25, 0.9], dtype=torch.float64)
    torch.testing.assert_close(counted.sde.log_snr(at), timed.sde.log_snr(at), rtol=0.01, atol=0.1)
    assert "SubVP" in repr(interop.load(path, preset="subvp/cifar10_ddpmpp_continuous").sde)


def test_a_network_that_is_told_no_time(reference, save):
    """Its file begins with the convolution; blocks keep layers for the embedding, unused."""
    state = state_of(reference(NETS[1])[0])
    silent, bare = {}, {}
    for name, value in state.items():
        silent[name] = torch.zeros_like(value) if ".Dense_0." in name else value
        if name == "sigmas":
            continue
        number, layer = name.removeprefix("all_modules.").split(".", 1)
        if int(number) > 1:
            bare[f"all_modules.{int(number) - 2}.{layer}"] = value
    preset, x = (
        {"preset": "vp/ddpm/cifar10_unconditional", "image_size": 16},
        torch.randn(2, 3, 16, 16),
    )
    found = interop.load(save(bare), **preset)
    assert "no time" in " ".join(found.notes)
    want = interop.load(save(silent), **preset).model()
    with torch.no_grad():
        torch.testing.assert_close(found.model().noise(x, 0.3), want.noise(x, 0.3))


def test_presets_are_complete():
    for name, preset in PRESETS.items():
        assert name.startswith(f"{preset.sde}/")
        assert not (preset.network == "ddpm" and preset.fir)
