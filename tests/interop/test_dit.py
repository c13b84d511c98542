"""Checkpoints of DiT: the recorded answers, what a file does not say, and what is refused."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
import torch

from sde_score import interop
from sde_score.training.errors import CheckpointError

# The first ships with the repository.
RECORDED = [
    ("dit_bare.pt", "", {"heads": 4}),
    ("dit.pt", "ema.", {"heads": 2}),
    ("dit.pt", "raw.", {"heads": 2, "weights": "raw"}),
    ("diffusers_dit", "", {}),
]


@pytest.fixture
def answers(reference):
    """Recorded numbers of a file."""
    return lambda name: reference(name.removesuffix(".pt"))[0]


@pytest.fixture
def state(recorded_file):
    """Weights of the small network that ships."""
    return torch.load(recorded_file("dit_bare.pt"), weights_only=True)


@pytest.fixture
def save(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "model.pt")
        return tmp_path / "model.pt"

    return write


@pytest.fixture
def folder(tmp_path, state):
    """The small network in the form of diffusers; its blocks share their embedding."""
    from safetensors.torch import save_file

    names = {
        "x_embedder": "pos_embed",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
        "t_embedder.mlp.0": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
        "y_embedder": "transformer_blocks.0.norm1.emb.class_embedder",
        "blocks.0.adaLN_modulation.1": "transformer_blocks.0.norm1.linear",
        "blocks.0.attn.proj": "transformer_blocks.0.attn1.to_out.0",
        "blocks.0.mlp.fc1": "transformer_blocks.0.ff.net.0.proj",
        "blocks.0.mlp.fc2": "transformer_blocks.0.ff.net.2",
    }
    written = {}
    for key, value in state.items():
        for old, new in names.items():
            if key.startswith(old + "."):
                written[new + key.removeprefix(old)] = value
        if ".attn.qkv." in key:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                written[f"transformer_blocks.0.attn1.to_{part}.{key.rsplit('.')[-1]}"] = (
                    third.contiguous()
                )
    config = {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": 4,
        "sample_size": 8,
        "norm_eps": 1e-5,
    }

    def write(scheduler=None, **changes):
        (tmp_path / "transformer").mkdir(exist_ok=True)
        (tmp_path / "scheduler").mkdir(exist_ok=True)
        (tmp_path / "transformer" / "config.json").write_text(json.dumps({**config, **changes}))
        if scheduler:
            (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        save_file(written, tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
        return tmp_path

    return write


def labels(arrays, classes):
    y = arrays.get("y", arrays.get("class_labels"))
    return torch.where(y == classes, -1, y)


@pytest.mark.parametrize(("name", "prefix", "options"), RECORDED)
def test_answers_are_the_recorded_ones(name, prefix, options, recorded_file, answers, matches):
    imported = interop.load(recorded_file(name), **options)
    arrays = answers(name)
    x, t, y = arrays["x"], arrays["timesteps"], labels(arrays, imported.num_classes)
    matches(
        imported,
        lambda model, dtype: model.backbone.everything(x.to(dtype), t.to(dtype), y),
        arrays[f"{prefix}output_f64"],
    )


@pytest.mark.parametrize(("name", "prefix", "options"), RECORDED[:3])
def test_guidance_of_the_authors(name, prefix, options, recorded_file, answers):
    """Their guided call: the first half of x twice, with and without class, on three channels."""
    imported = interop.load(recorded_file(name), **options)
    arrays = answers(name)
    scale = {"dit_bare.pt": 4.0, "dit.pt": 1.5}[name]
    half = len(arrays["x"]) // 2
    x = torch.cat([arrays["x"][:half]] * 2)
    t = arrays["timesteps"][:half].repeat(2).double()
    y = arrays["y_cfg"]
    net = imported.model().double().backbone
    with torch.no_grad():
        out = net.everything(x, t, torch.where(y == imported.num_classes, -1, y))
    known, free = out.chunk(2)
    guided = (free + scale * (known - free))[:, :3]
    expected = torch.cat([guided.repeat(2, 1, 1, 1), out[:, 3:]], 1)
    torch.testing.assert_close(expected, arrays[f"{prefix}output_cfg_f64"], rtol=1e-8, atol=1e-9)


def test_the_score_is_that_of_the_chain(recorded_file, answers):
    """Index i of 1000 betas from 1e-4 to 0.02: minus the noise over its standard deviation."""
    imported = interop.load(recorded_file("dit_bare.pt"), heads=4)
    arrays = answers("dit_bare.pt")
    model = imported.model().double()
    t = arrays["timesteps"]
    with torch.no_grad():
        score = model.score(arrays["x"], (t + 1).double() / 1000, labels(arrays, 3))
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[t]
    expected = -arrays["output_f64"] / (1 - kept).sqrt()[:, None, None, None]
    torch.testing.assert_close(score, expected, rtol=1e-7, atol=1e-8)


def test_model_samples_and_has_a_likelihood(recorded_file, usable):
    imported = interop.load(recorded_file("dit_bare.pt"), heads=4)
    usable(imported, torch.tensor([2]))
    assert not imported.needs_condition
    assert any("0.18215" in note for note in imported.notes)
    assert any("no class" in note for note in imported.notes)


def test_a_folder_of_diffusers_is_the_network_up_to_its_oddities(
    folder, state, recorded_file, answers
):
    """The same weights with the authors' frequencies, eps and positions give their answers."""
    imported = interop.load(folder())
    assert "eps=1e-05" in imported.backbone
    arrays = answers("dit_bare.pt")
    net = imported.model().double().backbone
    x, t, y = arrays["x"], arrays["timesteps"].double(), labels(arrays, 3)
    want = arrays["output_f64"]
    with torch.no_grad():
        before = net(x, t, y)
        assert (before - want).abs().max() > 0.1 * want.abs().max()
        net.embedding.features = replace(net.embedding.features, shift=0.0)
        net.blocks[0].norm2.eps = 1e-6
        net.rounded_positions = True
        torch.testing.assert_close(net(x, t, y), want, rtol=1e-8, atol=1e-9)


def test_a_folder_says_its_chain(folder):
    scheduler = {"beta_schedule": "scaled_linear", "num_train_timesteps": 500, "beta_end": 0.012}
    imported = interop.load(folder(scheduler))
    assert imported.prediction.startswith("ddpm(n=500")
    betas = torch.linspace(1e-4**0.5, 0.012**0.5, 500, dtype=torch.float64) ** 2
    kept = (1 - betas).prod().sqrt()
    assert imported.sde.alpha(1.0).item() == pytest.approx(kept.item())
    assert len(imported.notes) == 1
    with pytest.raises(CheckpointError, match="beta_schedule='laplace'"):
        interop.load(folder({"beta_schedule": "laplace"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_type": "layer_norm"}, "norm_type='layer_norm'"),
        ({"num_attention_heads": None}, "num_attention_heads=None"),
        ({"sample_size": 0}, "sample_size=0"),
        ({"norm_eps": "small"}, "cannot be built: eps='small'"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(changes, message, folder):
    with pytest.raises(CheckpointError, match=message):
        interop.load(folder(**changes))


def test_a_trainer_file_holds_two_sets_of_weights(state, save):
    raw = {key: value + (key.endswith("bias")) for key, value in state.items()}
    args = argparse.Namespace(model="DiT-tiny", num_classes=3)
    path = save({"model": raw, "ema": state, "opt": {"state": {}}, "args": args})
    name = "patches.conv.bias"
    assert torch.equal(interop.load(path, heads=4).state[name], state["x_embedder.proj.bias"])
    other = interop.load(path, heads=4, weights="raw").state[name]
    assert torch.equal(other, state["x_embedder.proj.bias"] + 1)
    with pytest.raises(ValueError, match="weights='both'"):
        interop.load(path, heads=4, weights="both")
    path = save({"model": raw, "ema": {**state, "step": 3}, "args": {"model": []}})
    with pytest.raises(CheckpointError, match="'step' of type int, which is no tensor"):
        interop.load(path, heads=4)
    path = save({"ema": state, "args": argparse.Namespace(model=["DiT-XL/2"])})
    assert interop.load(path, heads=4).num_classes == 3
    with pytest.raises(CheckpointError, match="weights='raw' asks for"):
        interop.load(path, heads=4, weights="raw")


def test_the_number_of_heads_is_asked_for(state, save):
    path = save(state)
    with pytest.raises(ValueError, match=r"number of heads: give heads=..., or preset=.*DiT-XL/2"):
        interop.load(path)
    with pytest.raises(CheckpointError, match=r"not those of DiT-S/2: they have width=16"):
        interop.load(path, preset="DiT-S/2")
    with pytest.raises(ValueError, match="preset='DiT-S/3'"):
        interop.load(path, preset="DiT-S/3")
    with pytest.raises(CheckpointError, match="heads=3 must divide width=16"):
        interop.load(path, heads=3)


def test_a_network_that_always_had_a_class(state, save):
    imported = interop.load(save(state), heads=4, null_class=False)
    assert (imported.num_classes, imported.needs_condition) == (4, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.0.mlp.fc2.bias"), "missing"),
        (lambda s: s.pop("blocks.0.attn.qkv.weight"), "has no 'blocks.0.attn.qkv.weight'"),
        (lambda s: s.update(more=torch.zeros(1)), r"1 tensors .* no place .*'more'"),
        (lambda s: s.update(pos_embed=s["pos_embed"] + 0.1), "not the table of sines"),
        (lambda s: s.update(pos_embed=s["pos_embed"][:, :3]), "not the table of sines"),
        (lambda s: s.update({"x_embedder.proj.weight": torch.zeros(3)}), "4 dimensions there"),
        (lambda s: s.update(pos_embed=torch.zeros(0, 4, 16)), "none of them empty"),
        (lambda s: s.update({"blocks.9.x": torch.zeros(1)}), "has no 'blocks.1.attn.qkv.weight'"),
        (lambda s: s.update({"blocks.0.mlp.fc1.bias": torch.zeros(5)}), "mlp.inner.bias has shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message, state, save):
    change(state)
    with pytest.raises(CheckpointError, match=message):
        interop.load(save(state), heads=4)
