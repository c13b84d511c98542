"""k-diffusion's checkpoints: the recorded numbers, its configurations, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sde_score import interop
from sde_score.training.errors import CheckpointError

TRAINED = ["kdiff_image_v1_train", "kdiff_transformer_v2_window"]
SLIM = ["kdiff_transformer_v2", "kdiff_image_v1"]


def inner(arrays, condition=None):
    """The network itself, at inputs that no preconditioning has seen."""

    def answer(model, dtype):
        label = arrays["sigma"].log().to(dtype) / 4
        return model.backbone(arrays["x_raw"].to(dtype), label, condition)

    return answer


def denoised(arrays, condition=None):
    return lambda model, dtype: model.denoise(arrays["x"].to(dtype), arrays["sigma"], condition)


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("name", TRAINED)
def test_training_file_agrees(name, weights, reference, recorded_file, matches):
    arrays, _ = reference(name)
    found = interop.load(recorded_file(f"{name}.pth"), weights=weights)
    matches(found, inner(arrays), arrays[f"{weights}.inner_f64"])
    if weights == "ema":
        matches(found, denoised(arrays), arrays["ema.denoised_f64"])
        if "aug_cond" in arrays:
            known = {"augment": arrays["aug_cond"]}
            matches(found, denoised(arrays, known), arrays["ema.denoised_aug_f64"])
    if f"{weights}.logvar_f64" in arrays:

        def variance(model, dtype):
            label = arrays["sigma"].log().to(dtype) / 4
            return model.backbone.with_log_variance(arrays["x_raw"].to(dtype), label)[1]

        matches(found, variance, arrays[f"{weights}.logvar_f64"])


@pytest.mark.parametrize("name", SLIM)
def test_slim_file_agrees(name, reference, recorded_file, matches):
    """Weights in half precision, configuration in the header, augmentation labels."""
    arrays, _ = reference(name)
    found = interop.load(recorded_file(name))
    label = arrays.get("class_cond")
    if label is not None:  # their last row is the one of no class
        label = torch.where(label == found.num_classes, -1, label)
        assert found.num_classes == 3
    matches(found, inner(arrays, label), arrays["inner_f64"])
    matches(found, denoised(arrays, label), arrays["denoised_f64"])
    known = {"augment": arrays["aug_cond"]} | ({} if label is None else {"label": label})
    matches(found, denoised(arrays, known), arrays["denoised_aug_f64"])
    assert any("half precision" in note for note in found.notes)


@pytest.mark.parametrize("name", TRAINED)
def test_it_samples_and_has_a_likelihood(name, recorded_file, usable):
    usable(interop.load(recorded_file(f"{name}.pth")))


def test_what_the_configuration_says(recorded_file):
    found = interop.load(recorded_file("kdiff_image_v1_train.pth"))
    assert found.event_shape == (2, 16, 16)
    assert found.sigma_data == 0.7
    assert (found.sde.sigma_min, found.sde.sigma_max) == (0.01, 80.0)
    assert found.prediction == "edm"
    assert found.facts["step"] == 1200
    assert found.facts["weights"] == "ema"
    assert "patch=2" in found.backbone
    assert not found.needs_condition


@pytest.fixture
def changed(recorded_file, tmp_path):
    """A training file, changed."""

    def make(change, name="kdiff_image_v1_train"):
        content = torch.load(recorded_file(f"{name}.pth"), weights_only=True)
        change(content)
        path = tmp_path / "changed.pth"
        torch.save(content, path)
        return path

    return make


DAMAGED = {
    "has no 'u_net.d_blocks.0.1.main.2.weight'": lambda c: c["model_ema"].pop(
        "u_net.d_blocks.0.1.main.2.weight"
    ),
    "have no place in the network": lambda c: c["model_ema"].update(spare=torch.zeros(3)),
    r"has shape \(8, 8, 1, 2\)": lambda c: c["model_ema"].update(
        {"proj_in.weight": torch.zeros(8, 8, 1, 2)}
    ),
    "another filter than": lambda c: c["model_ema"]["u_net.d_blocks.1.0.kernel"].mul_(2),
    "type 'image_transformer_v1'": lambda c: c["config"]["model"].update(
        type="image_transformer_v1"
    ),
    "no entry 'model' with type": lambda c: c["config"].pop("model"),
    "with cross_cond_dim": lambda c: c["config"]["model"].update(cross_cond_dim=4),
    "has no 'model_ema'": lambda c: c.pop("model_ema"),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damaged_and_foreign_files_are_refused(message, changed):
    with pytest.raises(CheckpointError, match=message):
        interop.load(changed(DAMAGED[message]))


def test_dropout_of_attention_is_said_to_be_off(changed):
    path = changed(lambda content: content["config"]["model"].update(dropout_rate=0.05))
    found = interop.load(path)
    assert any("dropout of attention" in note for note in found.notes)
    net = found.model().backbone
    x = torch.randn(1, 2, 16, 16)
    assert torch.equal(net(x, torch.zeros(1)), net(x, torch.zeros(1)))


def test_types_of_attention_that_cannot_be_read(changed):
    def foreign(content):
        content["config"]["model"]["self_attns"][0]["type"] = "linear"

    with pytest.raises(CheckpointError, match=r"attention of type 'linear'.*neighborhood"):
        interop.load(changed(foreign, "kdiff_transformer_v2_window"))


def test_a_neighborhood_of_the_whole_grid_is_global_attention(changed):
    """Read without natten; 8 x 4 tokens, then 2 x 1."""

    def answer(kind, **size):
        def change(content):
            for level in content["config"]["model"]["self_attns"]:
                if level["type"] != "none":
                    level.clear()
                    level.update(type=kind, d_head=8, **size)

        found = interop.load(changed(change, "kdiff_transformer_v2_window"))
        x = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(0)).double()
        return found.model().double().backbone(x, x.new_tensor([0.1, -0.7]))

    whole = answer("global")
    torch.testing.assert_close(answer("neighborhood", kernel_size=9), whole)
    assert not torch.allclose(answer("neighborhood", kernel_size=3), whole, atol=1e-3)


def test_a_run_that_never_dropped_its_classes_needs_them(recorded_file, tmp_path):
    state = load_file(recorded_file("kdiff_transformer_v2") / "model.safetensors")
    found = interop.load(recorded_file("kdiff_transformer_v2"))
    assert not found.needs_condition
    with safe_open(recorded_file("kdiff_transformer_v2") / "model.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    config["dataset"]["cond_dropout_rate"] = 0.0
    save_file(state, tmp_path / "m.safetensors", metadata={"config": json.dumps(config)})
    assert interop.load(tmp_path / "m.safetensors").needs_condition


def test_weights_alone_ask_for_their_configuration(recorded_file, tmp_path):
    content = torch.load(recorded_file("kdiff_image_v1_train.pth"), weights_only=True)
    path, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    state = {key: value.contiguous() for key, value in content["model_ema"].items()}
    save_file({key: value.clone() for key, value in state.items()}, path)
    with pytest.raises(ValueError, match=r"without their configuration: give config="):
        interop.load(path)
    config.write_text(json.dumps(content["config"]), encoding="utf-8")
    found = interop.load(path, config=config)
    assert found.event_shape == (2, 16, 16)
    with pytest.raises(ValueError, match=r"holds the averaged weights alone"):
        interop.load(path, config=config, weights="raw")
    save_file(load_file(path), path, metadata={"config": "{"})
    with pytest.raises(CheckpointError, match=r"configuration in .* is damaged"):
        interop.load(path)
