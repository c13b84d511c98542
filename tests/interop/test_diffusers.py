"""Folders of diffusers: the recorded answers, every scheduler, and refusals by name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from sde_score import interop
from sde_score.training.errors import CheckpointError

CHAIN = {"beta_schedule": "linear"}
# The first ships with the repository.
NETS = {
    "diffusers_legacy_names": CHAIN,
    "diffusers_adm_style": CHAIN,
    "diffusers_cifar10": {},
    "diffusers_ddpm_pipeline": {},
    "diffusers_default": CHAIN,
    "diffusers_ncsnpp_skip": {"sigma_min": 0.01, "sigma_max": 1348.0},
}


@pytest.fixture
def folder(recorded_file, tmp_path):
    """A copy of a folder that ships, which may be changed."""
    copy = shutil.copytree(recorded_file("diffusers_legacy_names"), tmp_path / "model")
    for path in copy.iterdir():
        path.chmod(0o644)
    return copy


def change(folder, **values):
    """Change the configuration of a folder."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(config), encoding="utf-8")


def scheduler(folder, name="DDPMScheduler", **values):
    """Give a folder a scheduler."""
    text = json.dumps({"_class_name": name, **values})
    (folder / "scheduler_config.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", NETS)
def test_networks_answer_as_recorded(name, reference, recorded_file, matches):
    arrays, _ = reference(name)
    imported = interop.load(recorded_file(name), **NETS[name])
    steps, skip = arrays["timesteps"], name.endswith("skip")

    def answer(model, dtype):
        label = (steps.log() if skip else steps).to(dtype)
        out = model.backbone.everything(arrays["x"].to(dtype), label, arrays.get("class_labels"))
        return out / steps.to(dtype)[:, None, None, None] if skip else out

    matches(imported, answer, arrays["output_f64"])


def test_score_beside_noise_levels_is_the_recorded_one(reference, recorded_file, matches):
    """A network with random frequencies answers with the score."""
    name = list(NETS)[-1]
    arrays, _ = reference(name)
    imported = interop.load(recorded_file(name), **NETS[name])

    def answer(model, dtype):
        return model.score(
            arrays["x"].to(dtype), model.sde.time_of_noise_ratio(arrays["timesteps"])
        )

    matches(imported, answer, arrays["output_f64"])


def test_a_pipeline_has_its_trajectory(reference, recorded_file):
    """Ten steps of DDIM, written out with the model's noise, are those of its scheduler."""
    name = "diffusers_ddpm_pipeline"
    arrays, _ = reference(name)
    model = interop.load(recorded_file(name)).model().double()
    x = arrays["start"]
    with torch.no_grad():
        for step, wanted in zip(
            arrays["timesteps_run_f64"], arrays["ddim.clip_False.eta_0_f64"][1:], strict=True
        ):
            t, before = (step + 1) / 1000, (step - 99) / 1000
            noise, data = model.noise(x, t), model.denoise(x, t)
            last = step < 100
            x = data if last else model.sde.alpha(before) * data + model.sde.sigma(before) * noise
            torch.testing.assert_close(x, wanted, rtol=1e-8, atol=1e-8)
    products = model.sde.alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000) ** 2
    torch.testing.assert_close(products, arrays["alphas_cumprod_f64"], rtol=1e-12, atol=0)


def test_imported_model_works(folder, usable):
    usable(interop.load(folder, **CHAIN))


def test_a_folder_without_a_scheduler_asks_for_one(folder):
    with pytest.raises(ValueError, match="beta_schedule"):
        interop.load(folder)
    change(folder, sample_size=None)
    with pytest.raises(ValueError, match="image_size"):
        interop.load(folder, **CHAIN)
    assert interop.load(folder, image_size=16, **CHAIN).event_shape == (3, 16, 16)
    change(folder, sample_size=[8, 16])
    assert interop.load(folder, **CHAIN).event_shape == (3, 8, 16)


def products(imported, n):
    return imported.sde.alpha(torch.arange(1, n + 1, dtype=torch.float64) / n) ** 2


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_chains_are_those_of_the_schedulers(kind, folder):
    """The products of 1 - beta, from the formulas."""
    n, first, last = 50, 0.002, 0.3
    scheduler(folder, beta_schedule=kind, num_train_timesteps=n, beta_start=first, beta_end=last)
    i = torch.arange(n, dtype=torch.float64) / (n - 1)
    cos = torch.cos((torch.arange(n + 1).double() / n + 0.008) / 1.008 * torch.pi / 2) ** 2
    betas = {
        "linear": first + (last - first) * i,
        "scaled_linear": (first**0.5 + (last**0.5 - first**0.5) * i) ** 2,
        "squaredcos_cap_v2": (1 - cos[1:] / cos[:-1]).clamp(max=0.999),
        "sigmoid": first + (last - first) / (1 + torch.exp(6 - 12 * i)),
    }
    wanted = (1 - betas[kind]).cumprod(0)
    torch.testing.assert_close(products(interop.load(folder), n), wanted, rtol=1e-9, atol=1e-12)


def test_trained_betas_and_predictions_are_taken(folder):
    betas = [0.1, 0.2, 0.4]
    scheduler(folder, "DDIMScheduler", trained_betas=betas, prediction_type="v_prediction")
    imported = interop.load(folder)
    assert imported.prediction == "ddpm(n=3, output='v')"
    wanted = torch.tensor([0.9, 0.72, 0.432], dtype=torch.float64)
    torch.testing.assert_close(products(imported, 3), wanted)
    scheduler(folder, prediction_type="sample", num_train_timesteps=10)
    assert interop.load(folder).prediction == "ddpm(n=10, output='data')"


def test_a_chain_without_signal_ends_in_noise(folder):
    """The others keep their places between the first, which stays, and zero."""
    plain = products(interop.load(scheduler(folder, num_train_timesteps=100)), 100).sqrt()
    scheduler(folder, num_train_timesteps=100, rescale_betas_zero_snr=True)
    imported = interop.load(folder)
    wanted = (plain - plain[-1]) * plain[0] / (plain[0] - plain[-1])
    torch.testing.assert_close(products(imported, 100).sqrt()[:-1], wanted[:-1])
    assert imported.sde.log_snr(1.0) < -16
    assert "no signal" in imported.notes[0]


def test_what_the_scheduler_does_beside_is_noted(folder):
    notes = interop.load(scheduler(folder, clip_sample=True, thresholding=True)).notes
    assert "clip_sample" in notes[0]
    assert "thresholding" in notes[1]


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, "FlowMatch"),
        ("EDMEulerScheduler", {}, "EDMEuler"),
        ("ScoreSdeVeScheduler", {"sigma_max": 10.0}, "fixed frequencies"),
        ("DDPMScheduler", {"beta_schedule": "laplace"}, "laplace"),
        ("DDPMScheduler", {"prediction_type": "flow"}, "flow"),
        ("DDPMScheduler", {"beta_end": 2.0}, "cannot be"),
        ("DDPMScheduler", {"beta_end": "far"}, "no number"),
        ("DDPMScheduler", {"num_train_timesteps": 1e12}, "cannot be"),
        ("DDPMScheduler", {"trained_betas": ["x"]}, "no numbers"),
        ("DDPMScheduler", {"trained_betas": [0.1, -0.2]}, "betas"),
    ],
)
def test_schedulers_that_do_not_fit_are_refused(name, values, match, folder):
    scheduler(folder, name, **values)
    with pytest.raises(CheckpointError, match=match):
        interop.load(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"act_fn": "gelu"},
        {"mid_block_type": None},
        {"time_embedding_type": "learned"},
        {"class_embed_type": "identity"},
        {"attn_norm_num_groups": 3},
        {"resnet_time_scale_shift": "spatial"},
        {"norm_num_groups": None},
        {"out_channels": 5},
        {"center_input_sample": True},
        {"down_block_types": ["DownBlock2D", "KDownBlock2D"]},
        {"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]},
        {"down_block_types": ["DownBlock2D"]},
        {"down_block_types": "DownBlock2D"},
        {"block_out_channels": ["4", "8"]},
        {"block_out_channels": [4, 12]},
        {"mid_block_scale_factor": 0},
        {"sample_size": ["a", "b"]},
        {"window_size": 8},
        {"_class_name": "UNet2DConditionModel"},
    ],
)
def test_configurations_that_are_not_supported_are_refused(values, folder):
    change(folder, **values)
    with pytest.raises(CheckpointError):
        interop.load(folder, **CHAIN)


def test_every_value_that_is_not_supported_is_named(folder):
    change(folder, act_fn="gelu", window_size=8, out_channels=5)
    with pytest.raises(CheckpointError, match=r"act_fn='gelu', window_size=8, out_channels=5"):
        interop.load(folder, **CHAIN)


@pytest.mark.parametrize("break_", ["missing", "extra", "shape", "config"])
def test_weights_that_do_not_fit_are_refused(break_, folder):
    old = folder / "diffusion_pytorch_model.bin"
    state = torch.load(old, weights_only=True)
    name = "mid_block.resnets.1.conv2.weight"
    if break_ == "missing":
        del state[name]
    elif break_ == "extra":
        state["mid_block.resnets.2.conv2.weight"] = torch.zeros(2)
    elif break_ == "shape":
        state[name] = state[name][1:].contiguous()
    else:
        (folder / "config.json").unlink()
    old.unlink()
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError):
        interop.load(folder, **CHAIN)
