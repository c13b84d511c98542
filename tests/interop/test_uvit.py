"""Checkpoints of U-ViT: the recorded answers, what a file does not say, and what is refused."""

from __future__ import annotations

import pytest
import torch

from sde_score import interop
from sde_score.training.errors import CheckpointError

OPTIONS = {"heads": 2, "chain": "vp", "null_class": False}
# The first ships with the repository.
RECORDED = [
    ("uvit_cond.pth", "", OPTIONS),
    ("uvit", "ema.", {"heads": 3, "chain": "vp"}),
    ("uvit", "raw.", {"heads": 3, "chain": "vp", "weights": "raw"}),
]


@pytest.fixture
def answers(reference):
    """Recorded numbers of a file."""
    return lambda name: reference(name.removesuffix(".pth"))[0]


@pytest.fixture
def state(recorded_file):
    """Weights of the small network that ships."""
    return torch.load(recorded_file("uvit_cond.pth"), weights_only=True)


@pytest.fixture
def save(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "nnet.pth")
        return tmp_path / "nnet.pth"

    return write


@pytest.mark.parametrize(("name", "prefix", "options"), RECORDED)
def test_answers_are_the_recorded_ones(name, prefix, options, recorded_file, answers, matches):
    arrays = answers(name)
    x, t, y = arrays["x"], arrays["timesteps"], arrays.get("y")
    matches(
        interop.load(recorded_file(name), **options),
        lambda model, dtype: model.backbone(x.to(dtype), t.to(dtype), y),
        arrays[f"{prefix}output_f64"],
    )


def test_the_score_is_that_of_the_vp_sde(recorded_file, answers):
    """The label is 999 t, and the answer the noise."""
    arrays = answers("uvit_cond.pth")
    model = interop.load(recorded_file("uvit_cond.pth"), **OPTIONS).model().double()
    t = arrays["timesteps"] / 999
    with torch.no_grad():
        score = model.score(arrays["x"], t, arrays["y"])
    alpha2 = torch.exp(-0.1 * t - 0.5 * 19.9 * t**2)
    expected = -arrays["output_f64"] / (1 - alpha2).sqrt()[:, None, None, None]
    torch.testing.assert_close(score, expected, rtol=1e-8, atol=1e-8)


def test_latent_networks_count_the_betas_of_stable_diffusion_from_one(recorded_file, answers):
    arrays = answers("uvit_cond.pth")
    options = {**OPTIONS, "chain": "stable-diffusion"}
    imported = interop.load(recorded_file("uvit_cond.pth"), **options)
    assert any("0.18215" in note for note in imported.notes)
    model = imported.model().double()
    t = torch.tensor([7, 400, 1000]).double() / 1000
    with torch.no_grad():
        noise = model.noise(arrays["x"], t, arrays["y"])
        expected = model.backbone(arrays["x"], 1000 * t, arrays["y"])
    torch.testing.assert_close(noise, expected)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)[[6, 399, 999]].sqrt()
    torch.testing.assert_close(imported.sde.alpha(t), kept)


def test_model_samples_and_has_a_likelihood(recorded_file, usable):
    imported = interop.load(recorded_file("uvit_cond.pth"), **OPTIONS)
    assert imported.needs_condition
    usable(imported, torch.tensor([2]))


def test_a_last_row_may_be_the_one_for_no_class(recorded_file, usable):
    imported = interop.load(recorded_file("uvit_cond.pth"), **{**OPTIONS, "null_class": True})
    assert (imported.num_classes, imported.needs_condition) == (3, False)
    usable(imported)


def test_a_folder_of_several_steps_gives_the_last(tmp_path, state):
    for step in (500, 1500):
        folder = tmp_path / f"{step}.ckpt"
        folder.mkdir()
        for name, shift in (("nnet", 1), ("nnet_ema", 2)):
            moved = {**state, "norm.bias": state["norm.bias"] + shift + step}
            torch.save(moved, folder / f"{name}.pth")
        torch.save(step, folder / "step.pth")
        torch.save({"state": {}}, folder / "optimizer.pth")
    ours = interop.load(tmp_path, **OPTIONS)
    assert ours.facts == {"step": 1500}
    assert torch.equal(ours.state["norm.bias"], state["norm.bias"] + 1502)
    raw = interop.load(tmp_path / "500.ckpt", **OPTIONS, weights="raw")
    assert torch.equal(raw.state["norm.bias"], state["norm.bias"] + 501)
    (tmp_path / "500.ckpt" / "nnet.pth").unlink()
    with pytest.raises(CheckpointError, match=r"no nnet.pth, which weights='raw' asks for"):
        interop.load(tmp_path / "500.ckpt", **OPTIONS, weights="raw")


def test_blocks_keep_their_order_and_averages_theirs(state, tmp_path):
    """Every tensor of a deeper network, filled with its own number, in the folder of a trainer."""
    deeper = dict(state)
    for key, value in state.items():
        for side in ("in_blocks", "out_blocks"):
            if key.startswith(f"{side}.0."):
                deeper[key.replace(".0.", ".1.", 1)] = value
    marked = {key: torch.full_like(value, i) for i, (key, value) in enumerate(deeper.items())}
    torch.save(marked, tmp_path / "nnet_ema.pth")
    torch.save(state, tmp_path / "nnet.pth")
    imported = interop.load(tmp_path, **OPTIONS)
    assert "depth=4" in imported.backbone
    pairs = {
        "first.1.norm1.bias": "in_blocks.1.norm1.bias",
        "second.0.skip.weight": "out_blocks.0.skip_linear.weight",
        "second.0.norm1.weight": "out_blocks.0.norm1.weight",
        "second.1.mlp.outer.weight": "out_blocks.1.mlp.fc2.weight",
        "middle.attention.out.weight": "mid_block.attn.proj.weight",
    }
    for ours, theirs in pairs.items():
        assert imported.state[ours].unique().item() == list(deeper).index(theirs)
    assert "depth=2" in interop.load(tmp_path, **OPTIONS, weights="raw").backbone


def test_what_a_file_does_not_say_is_asked_for(state, save):
    path = save(state)
    with pytest.raises(ValueError, match=r"do not say heads, chain, null_class: .*cifar10-small"):
        interop.load(path)
    with pytest.raises(ValueError, match="do not say null_class"):
        interop.load(path, preset="cifar10-small")
    with pytest.raises(ValueError, match="preset='cifar10'"):
        interop.load(path, preset="cifar10")
    with pytest.raises(ValueError, match="chain='ve'"):
        interop.load(path, **{**OPTIONS, "chain": "ve"})
    imported = interop.load(path, preset="imagenet64-mid", heads=4)
    assert "heads=4" in imported.backbone
    assert imported.needs_condition


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), "missing"),
        (lambda s: s.pop("out_blocks.0.skip_linear.weight"), "has no 'out_blocks.0.skip_linear"),
        (lambda s: s.update({"context_embed.weight": torch.zeros(1)}), "no place .*context_embed"),
        (lambda s: s.update(pos_embed=s["pos_embed"][:, :5]), "3 places beside .* no square"),
        (lambda s: s.update({"in_blocks.0.norm1.bias": torch.zeros(5)}), "norm1.bias has shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message, state, save):
    change(state)
    with pytest.raises(CheckpointError, match=message):
        interop.load(save(state), **OPTIONS)
