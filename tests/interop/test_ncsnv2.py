"""Checkpoints of NCSNv2: the recorded scores, and the three sizes of its network."""

from __future__ import annotations

import re

import pytest
import torch

from sde_score import interop
from sde_score.nn.backbones.refinenet import RefineNet
from sde_score.training.errors import CheckpointError

SIDE = 16


@pytest.fixture
def content(recorded_file):
    """A checkpoint that ships, which may be changed."""
    return list(interop.read_contents(recorded_file("ncsnv2.pth")).content)


@pytest.fixture
def save(tmp_path):
    """Write a file and return its path."""

    def write(content):
        torch.save(content, tmp_path / "checkpoint.pth")
        return tmp_path / "checkpoint.pth"

    return write


@pytest.mark.parametrize("name", ["ncsnv2", "ncsnv2_deeper"])
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_scores_are_the_recorded_ones(name, weights, reference, recorded_file, matches):
    """Images in [-1, 1] have twice the noise and half the score of images in [0, 1]."""
    arrays, _ = reference(name)
    path = recorded_file(f"{name}.pth")
    imported = interop.load(path, weights=weights, image_size=SIDE)
    sigma = arrays["sigmas_f64"][arrays["labels"]] if "labels" in arrays else None

    def answer(model, dtype):
        t = model.sde.time_of_noise_ratio(2 * sigma)
        return 2 * model.score((2 * arrays["x"] - 1).to(dtype), t)

    matches(imported, answer, arrays[f"{weights}.output_f64"])
    assert imported.sde.sigma_max == pytest.approx(2 * float(arrays["sigmas_f64"][0]))


def test_imported_model_works(content, save, usable):
    usable(interop.load(save(content), image_size=SIDE))


def test_a_file_of_score_sde_holds_the_same_network(content, save):
    """Its trainer names its entries, and its average is a list without names."""
    state, average = content[0], content[4]
    shadows = [
        average[name.removeprefix("module.")] for name in state if not name.endswith("sigmas")
    ]
    written = {"model": state, "ema": {"decay": 0.9, "shadow_params": shadows}, "step": 7}
    found = interop.load(save(written), image_size=SIDE)
    want = interop.load(save(content), image_size=SIDE)
    assert all(torch.equal(found.state[name], value) for name, value in want.state.items())
    assert found.facts["step"] == 7


def their_name(name, levels):
    """A name of ours as the published code has it, from the order of its attributes."""
    numbers = {4: "1234", 5: "12345"}.get(levels, ["1", "2", "3", "31", "4", "5"])
    first, *rest = name.split(".")
    if first in ("stem", "norm", "head"):
        theirs = {"stem": "begin_conv", "norm": "normalizer", "head": "end_conv"}[first]
        return ".".join([theirs, *rest])
    level = int(rest[0])
    if first == "levels":
        part = re.sub(r"norm(\d)", r"normalize\1", rest[2])
        return f"res{numbers[level]}.{rest[1]}.{part}.{rest[3]}"
    folder = f"refine{numbers[levels - 1 - level]}"
    kind, *places, leaf = rest[1:]
    if kind in ("join", "chain"):
        return f"{folder}.{'msf' if kind == 'join' else 'crp'}.convs.{places[0]}.{leaf}"
    unit, stage = (int(place) + 1 for place in places[-2:])
    if kind == "inputs":
        return f"{folder}.adapt_convs.{places[0]}.{unit}_{stage}_conv.{leaf}"
    return f"{folder}.output_convs.{unit}_{stage}_conv.{leaf}"


def test_the_largest_network_is_read_by_its_names(save, randomize_state):
    """Six levels, with the odd names res31 and refine31 in their places."""
    options = {"base": 2, "multipliers": (1, 2, 2, 2, 4, 4), "dilations": (1, 1, 1, 1, 2, 4)}
    net = randomize_state(RefineNet((1, SIDE, SIDE), **options))
    state = {their_name(name, 6): value for name, value in net.state_dict().items()}
    for name in list(state):
        if re.fullmatch(r"res(2|3|31)\.0\.(conv2|shortcut)\..*", name):
            state[re.sub(r"(conv2|shortcut)", r"\1.conv", name)] = state.pop(name)
    state["sigmas"] = torch.tensor([10.0, 1.0, 0.1])
    imported = interop.load(save(state), image_size=SIDE)
    x = torch.randn(2, 1, SIDE, SIDE)
    assert torch.equal(imported.model().backbone(x, torch.ones(2)), net.eval()(x, torch.ones(2)))


@pytest.fixture
def randomize_state():
    """Draw every parameter of a network anew."""

    def draw(net):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        return net

    return draw


def test_files_of_score_sdes_trainer_are_read(content, save):
    """The same network, in a dictionary whose average has no names."""
    shadows = [2 * value for name, value in content[0].items() if name != "module.sigmas"]
    path = save({"model": content[0], "ema": {"decay": 0.9, "shadow_params": shadows}, "step": 7})
    raw, ema = (interop.load(path, weights=kind, image_size=SIDE) for kind in ("raw", "ema"))
    assert all(torch.equal(ema.state[name], 2 * value) for name, value in raw.state.items())
    assert ema.facts["step"] == 7


def test_images_of_another_range_are_told(content, save):
    plain = interop.load(save(content), image_size=SIDE)
    rescaled = interop.load(save(content), image_size=SIDE, rescaled=True)
    assert plain.sde.sigma_max == 2 * rescaled.sde.sigma_max
    assert "[0, 1]" in plain.notes[0]


def test_what_a_file_does_not_say_is_asked_for(content, save):
    with pytest.raises(ValueError, match="image_size"):
        interop.load(save(content))
    assert interop.load(save(content), preset="church").event_shape == (3, 96, 96)
    with pytest.raises(ValueError, match="weights='raw'"):
        interop.load(save(content[:4]), image_size=SIDE)


@pytest.mark.parametrize(
    "break_", ["missing", "extra", "foreign", "shape", "level", "sigmas", "ncsn"]
)
def test_weights_that_do_not_fit_are_refused(break_, content, save):
    state = dict(content[0])
    name = "module.refine2.adapt_convs.1.2_1_conv.weight"
    if break_ == "missing":
        del state[name]
    elif break_ == "extra":
        state["module.refine2.adapt_convs.2.2_1_conv.weight"] = state[name]
    elif break_ == "foreign":
        state["module.other.weight"] = state[name]
    elif break_ == "shape":
        state[name] = state[name][1:]
    elif break_ == "level":
        state = {key: value for key, value in state.items() if "res3." not in key}
    elif break_ == "sigmas":
        del state["module.sigmas"]
    else:
        state["module.normalizer.embed.weight"] = state[name]
    with pytest.raises(CheckpointError):
        interop.load(save([state, *content[1:]]), image_size=SIDE, weights="raw")
