"""lucidrains' checkpoints: the recorded numbers, what is read off, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sde_score import interop
from sde_score.interop.schedules import betas
from sde_score.training.errors import CheckpointError

FOLDER = Path(__file__).parents[1] / "reference"
NAMES = ["lucidrains_pred_noise", "lucidrains_pred_v"]


def load(name, **options):
    return interop.load(FOLDER / f"{name}.pt", image_size=8, **options)


def content(name="lucidrains_pred_noise"):
    return torch.load(FOLDER / f"{name}.pt", weights_only=True)


def saved(tmp_path, what):
    path = tmp_path / "model.pt"
    torch.save(what, path)
    return path


def off(got, wanted):
    return ((got.detach().double() - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("weights", ["raw", "ema"])
@pytest.mark.parametrize("name", NAMES)
def test_network_agrees(name, weights, reference):
    arrays, _ = reference(name)
    model = load(name, weights=weights).model()
    for dtype, bound in ((torch.float32, 1e-3), (torch.float64, 1e-8)):
        out = model.to(dtype).backbone(arrays["x"].to(dtype), arrays["t"].to(dtype), None)
        assert off(out, arrays[f"{weights}.output_f64"]) < bound


@pytest.mark.parametrize("name", NAMES)
def test_predictions_and_posterior_agree(name, reference):
    """From the model's view of data and noise; its own clip is put on the data."""
    arrays, _ = reference(name)
    model = load(name).model().double()
    x, t = arrays["x"], arrays["t"]
    time = (t + 1).double() / 1000
    x0 = model.denoise(x, time)
    assert off(x0, arrays["ema.pred_x_start_f64"]) < 1e-8
    assert off(model.noise(x, time), arrays["ema.pred_noise_f64"]) < 1e-8
    assert off(x0.clamp(-1, 1), arrays["ema.clip.pred_x_start_f64"]) < 1e-8
    beta = betas("cosine" if "noise" in name else "sigmoid")[t].reshape(-1, 1, 1, 1)
    alpha = model.sde.alpha(time).square().reshape(-1, 1, 1, 1)
    before = alpha / (1 - beta)
    variance = beta * (1 - before) / (1 - alpha)
    mean = (beta * before.sqrt() * x0.clamp(-1, 1) + (1 - before) * (1 - beta).sqrt() * x) / (
        1 - alpha
    )
    assert off(mean, arrays["ema.posterior_mean_f64"]) < 1e-8
    later = t > 0
    found = variance.log()[later]
    assert off(found, arrays["ema.posterior_log_variance_f64"][later]) < 1e-8


def test_what_is_read_off():
    one, other = (load(name) for name in NAMES)
    assert (one.facts["objective"], one.facts["schedule"]) == ("pred_noise", "cosine")
    assert (other.facts["objective"], other.facts["schedule"]) == ("pred_v", "sigmoid")
    assert one.facts["step"] == 132
    assert one.facts["weights"] == "ema"
    assert "full_attention=(True, False), heads=(2, 2), head_channels=(4, 4)" in one.backbone
    assert "full_attention=(False, True)" in other.backbone
    assert any("[-1, 1]" in note for note in one.notes)
    assert one.scaling.levels == 256


def test_it_samples_and_has_a_likelihood(usable):
    usable(load("lucidrains_pred_v"))


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_objective_from_the_loss_weights(objective, gamma, tmp_path):
    """Of the three objectives, plain or with a capped signal-to-noise ratio."""
    what = content()
    alpha2 = (1 - betas("cosine")).cumprod(0)
    snr = alpha2 / (1 - alpha2)
    top = snr if gamma is None else snr.clamp(max=gamma)
    weight = {"pred_noise": top / snr, "pred_x0": top, "pred_v": top / (1 + snr)}[objective]
    what["ema"]["ema_model.loss_weight"] = weight.float()
    found = interop.load(saved(tmp_path, what), image_size=8)
    assert found.facts["objective"] == objective
    what["ema"]["ema_model.loss_weight"] = snr.sqrt().float()
    with pytest.raises(ValueError, match=r"no single objective: give objective="):
        interop.load(saved(tmp_path, what))
    given = interop.load(saved(tmp_path, what), objective=objective)
    assert given.facts["objective"] == objective


def test_a_bare_network_asks_for_what_it_does_not_say(tmp_path, reference):
    arrays, _ = reference(NAMES[0])
    state = {
        key.removeprefix("model."): value
        for key, value in content()["model"].items()
        if key.startswith("model.")
    }
    path = saved(tmp_path, state)
    with pytest.raises(ValueError, match=r"no betas: give schedule="):
        interop.load(path)
    with pytest.raises(ValueError, match=r"does not say its objective: give objective="):
        interop.load(path, schedule="cosine")
    with pytest.raises(ValueError, match=r"holds one set of weights alone"):
        interop.load(path, weights="ema")
    model = interop.load(path, schedule="cosine", objective="pred_noise").model().double()
    out = model.backbone(arrays["x"], arrays["t"].double(), None)
    assert off(out, arrays["raw.output_f64"]) < 1e-8


def test_a_diffusion_alone_is_enough(tmp_path):
    found = interop.load(saved(tmp_path, content()["model"]))
    assert found.facts["weights"] == "the only ones"
    with pytest.raises(ValueError, match=r"schedule='linear': the file has its betas"):
        interop.load(saved(tmp_path, content()["model"]), schedule="linear")


def without(change):
    """The raw weights of a file, changed."""
    what = {"model": content()["model"]}
    change(what["model"])
    return what


def renamed(state, old, new):
    for key in [key for key in state if old in key]:
        state[key.replace(old, new)] = state.pop(key)


OLD = {
    "before 1.8": lambda s: renamed(s, "downs.0.2.to_qkv", "downs.0.2.fn.fn.to_qkv"),
    "1.8": lambda s: [s.pop(key) for key in list(s) if "mem_kv" in key],
    "ConvNeXt": lambda s: renamed(s, "downs.0.0.block1.proj", "downs.0.0.ds_conv"),
    "before 2022": lambda s: renamed(s, "downs.0.0.block1.proj", "downs.0.0.block1.block.0"),
}


@pytest.mark.parametrize("age", OLD)
def test_older_generations_are_refused_by_name(age, tmp_path):
    with pytest.raises(CheckpointError, match=rf"{age}.*only those of 1\.9"):
        interop.load(saved(tmp_path, without(OLD[age])))


DAMAGED = {
    "for signals of one side": lambda s: s.update({"model.init_conv.weight": torch.zeros(4, 3, 7)}),
    "with classifier-free guidance": lambda s: s.update({"model.null_classes_emb": torch.zeros(4)}),
    "has no 'model.mid_attn.to_out.weight'": lambda s: s.pop("model.mid_attn.to_out.weight"),
    "have no place in the network": lambda s: s.update(spare=torch.zeros(2)),
    r"has shape \(4, 3, 5, 5\)": lambda s: s.update(
        {"model.init_conv.weight": torch.zeros(4, 3, 5, 5)}
    ),
    "takes 5 channels and answers 3": lambda s: s.update(
        {"model.init_conv.weight": torch.zeros(4, 5, 7, 7)}
    ),
    "no multiples of 4": lambda s: s.update({"model.downs.1.3.weight": torch.zeros(9, 4, 3, 3)}),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damaged_files_are_refused(message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        interop.load(saved(tmp_path, without(DAMAGED[message])))
    with pytest.raises(CheckpointError, match=r"no averaged weights"):
        interop.load(saved(tmp_path, {**content(), "ema": {}}), weights="ema")


def test_1_9_has_group_normalization(tmp_path):
    """Loaded by the same door; the network against its formula."""
    what = content()["model"]
    for key in [key for key in what if key.endswith(("block1.norm.g", "block2.norm.g"))]:
        scale = what.pop(key).flatten()
        what[key.replace(".g", ".weight")], what[key.replace(".g", ".bias")] = scale, scale / 3
    found = interop.load(saved(tmp_path, what), image_size=8, groups=2)
    assert any("groups of the normalizations: 2" in note for note in found.notes)
    net = found.model().double().backbone
    block = net.encoder[0].first
    x, e = torch.randn(2, 4, 5, 5).double(), torch.randn(2, 16).double()

    def norm(h, layer):
        h = torch.nn.functional.group_norm(h, 2)
        return h * layer.weight[:, None, None] + layer.bias[:, None, None]

    shift = block.condition.linear(e).reshape(2, 2, 4, 1, 1)
    h = norm(block.conv1(x), block.norm1) * (1 + shift[:, 0]) + shift[:, 1]
    h = norm(block.conv2(h * h.sigmoid()), block.norm2)
    torch.testing.assert_close(block(x, e), x + h * h.sigmoid(), rtol=1e-10, atol=1e-10)


def test_random_frequencies_and_self_conditioning(tmp_path):
    """Their features are the label, sines and cosines; their further channels come first."""
    what = content()["model"]
    what["model.time_mlp.0.weights"] = torch.randn(4)
    what["model.time_mlp.1.weight"] = torch.randn(16, 9)
    what["model.init_conv.weight"] = torch.randn(4, 6, 7, 7)
    found = interop.load(saved(tmp_path, what), image_size=8)
    net = found.model().double().backbone
    t = torch.tensor([0.3, 2.0]).double()
    angle = 2 * torch.pi * t[:, None] * what["model.time_mlp.0.weights"].double()
    features = torch.cat([t[:, None], angle.sin(), angle.cos()], dim=1)
    torch.testing.assert_close(net.embedding.features.of(t, net.embedding.W), features)
    x, estimate = torch.randn(2, 2, 3, 8, 8).double()
    seen = []
    net.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(x, t)
    net(x, t, {"estimate": estimate})
    assert torch.equal(seen[0], torch.cat([torch.zeros_like(x), x], dim=1))
    assert torch.equal(seen[1], torch.cat([estimate, x], dim=1))
    assert any("self-conditioning" in note for note in found.notes)


def test_a_learned_variance_is_left_out_of_the_answer(tmp_path):
    what = content()["model"]
    what["model.final_conv.weight"] = torch.randn(6, 4, 1, 1)
    what["model.final_conv.bias"] = torch.randn(6)
    net = interop.load(saved(tmp_path, what), image_size=8).model().backbone
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 5.0])
    assert net.everything(x, t).shape == (2, 6, 8, 8)
    assert torch.equal(net(x, t), net.everything(x, t)[:, :3])
