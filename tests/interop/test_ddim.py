"""DDPM's networks in PyTorch, held against a second implementation from the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sde_score import interop
from sde_score.training.errors import CheckpointError

WIDTHS, BLOCKS, SIDE = (32, 64), 2, 8


BASE = 32


def shapes(widths, blocks, attention, convolves=True):
    """Names of the layers of a network, with inputs, outputs and taps; None for norms."""
    base = BASE
    layers = {"temb.dense.0": (base, 4 * base, 0), "temb.dense.1": (4 * base, 4 * base, 0)}
    layers["conv_in"] = (3, base, 3)

    def block(name, a, b):
        layers.update(
            {f"{name}.norm1": (a, a, None), f"{name}.conv1": (a, b, 3)}
            | {f"{name}.temb_proj": (4 * base, b, 0), f"{name}.norm2": (b, b, None)}
            | {f"{name}.conv2": (b, b, 3)}
        )
        if a != b:
            layers[f"{name}.nin_shortcut"] = (a, b, 1)

    def attend(name, a):
        layers[f"{name}.norm"] = (a, a, None)
        layers.update({f"{name}.{key}": (a, a, 1) for key in ("q", "k", "v", "proj_out")})

    width, kept = base, [base]
    for i, out in enumerate(widths):
        for j in range(blocks):
            block(f"down.{i}.block.{j}", width, out)
            if attention[i]:
                attend(f"down.{i}.attn.{j}", out)
            width = out
            kept.append(width)
        if i < len(widths) - 1:
            kept.append(width)
            if convolves:
                layers[f"down.{i}.downsample.conv"] = (width, width, 3)
    block("mid.block_1", width, width)
    attend("mid.attn_1", width)
    block("mid.block_2", width, width)
    for i, out in reversed(list(enumerate(widths))):
        for j in range(blocks + 1):
            block(f"up.{i}.block.{j}", width + kept.pop(), out)
            if attention[i]:
                attend(f"up.{i}.attn.{j}", out)
            width = out
        if i and convolves:
            layers[f"up.{i}.upsample.conv"] = (width, width, 3)
    return layers | {"norm_out": (width, width, None), "conv_out": (width, 3, 3)}


def draw(layers):
    """Random weights of such layers."""
    generator, state = torch.Generator().manual_seed(0), {}
    for name, (a, b, taps) in layers.items():
        if taps is None:
            state[f"{name}.weight"] = 1 + 0.3 * torch.randn(a, generator=generator)
        else:
            size = (b, a) if taps == 0 else (b, a, taps, taps)
            scale = (a * max(1, taps) ** 2) ** -0.5
            state[f"{name}.weight"] = scale * torch.randn(size, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(b, generator=generator)
    return state


class Formulas:
    """The network written out, on the names of its file."""

    def __init__(self, state, widths, blocks, attention, convolves=True):
        self.state = {name: value.double() for name, value in state.items()}
        self.widths, self.blocks, self.attention = widths, blocks, attention
        self.convolves = convolves

    def conv(self, name, x, **options):
        weight = self.state[f"{name}.weight"]
        options = options or {"padding": weight.shape[-1] // 2}
        return F.conv2d(x, weight, self.state[f"{name}.bias"], **options)

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name, x):
        grouped = x.reshape(len(x), 32, -1)
        grouped = grouped - grouped.mean(2, keepdim=True)
        grouped = grouped / (grouped.square().mean(2, keepdim=True) + 1e-6).sqrt()
        weight, bias = (self.state[f"{name}.{key}"][:, None, None] for key in ("weight", "bias"))
        return grouped.reshape(x.shape) * weight + bias

    def block(self, name, x, temb):
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)))
        h = h + self.linear(f"{name}.temb_proj", F.silu(temb))[:, :, None, None]
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)))
        shortcut = f"{name}.nin_shortcut"
        return h + (self.conv(shortcut, x) if f"{shortcut}.weight" in self.state else x)

    def attend(self, name, x):
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{key}", h).flatten(2) for key in "qkv")
        weights = torch.einsum("bci,bcj->bij", q, k) / math.sqrt(q.shape[1])
        found = torch.einsum("bij,bcj->bci", weights.softmax(2), v).reshape(x.shape)
        return x + self.conv(f"{name}.proj_out", found)

    def temb(self, t):
        half = BASE // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half).double() / (half - 1))
        angles = t.double()[:, None] * rates
        features = torch.cat([angles.sin(), angles.cos()], 1)
        return self.linear("temb.dense.1", F.silu(self.linear("temb.dense.0", features)))

    def __call__(self, x, t):
        temb, last = self.temb(t), len(self.widths) - 1
        kept = [h := self.conv("conv_in", x)]
        for i in range(last + 1):
            for j in range(self.blocks):
                h = self.block(f"down.{i}.block.{j}", h, temb)
                h = self.attend(f"down.{i}.attn.{j}", h) if self.attention[i] else h
                kept.append(h)
            if i < last and self.convolves:
                h = self.conv(f"down.{i}.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
            elif i < last:
                h = F.avg_pool2d(h, 2)
            if i < last:
                kept.append(h)
        h = self.attend("mid.attn_1", self.block("mid.block_1", h, temb))
        h = self.block("mid.block_2", h, temb)
        for i in range(last, -1, -1):
            for j in range(self.blocks + 1):
                h = self.block(f"up.{i}.block.{j}", torch.cat([h, kept.pop()], 1), temb)
                h = self.attend(f"up.{i}.attn.{j}", h) if self.attention[i] else h
            if i:
                h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                h = self.conv(f"up.{i}.upsample.conv", h) if self.convolves else h
        return self.conv("conv_out", F.silu(self.norm("norm_out", h)))


@pytest.fixture
def state():
    return draw(shapes(WIDTHS, BLOCKS, (False, True)))


@pytest.fixture
def save(tmp_path):
    """Write a file and return its path."""

    def write(content):
        torch.save(content, tmp_path / "model.ckpt")
        return tmp_path / "model.ckpt"

    return write


@pytest.mark.parametrize(
    ("widths", "blocks", "attention", "convolves"),
    [
        (WIDTHS, BLOCKS, (False, True), True),
        ((32, 32, 64), 1, (True, False, True), True),
        ((32, 64), 1, (False, False), False),
        ((64, 32), 1, (False, True), True),
    ],
)
def test_networks_answer_by_the_formulas(widths, blocks, attention, convolves, save, matches):
    configuration = (widths, blocks, attention, convolves)
    state = draw(shapes(*configuration))
    imported = interop.load(save(state), image_size=SIDE)
    x = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double()
    t = torch.tensor([0, 17, 999])

    def answer(model, dtype):
        time = (t.double() + 1) / 1000
        return model.noise(x.to(dtype), time)

    matches(imported, answer, Formulas(state, *configuration)(x, t))
    first = imported.sde.alpha(torch.tensor(1e-3, dtype=torch.float64)) ** 2
    assert float(first) == pytest.approx(1 - 1e-4, abs=1e-12)


def test_imported_model_works(state, save, usable):
    usable(interop.load(save(state), image_size=SIDE))


def test_a_trainers_list_has_its_average(state, save):
    wrapped = {f"module.{name}": value for name, value in state.items()}
    ema = {name: 2 * value for name, value in state.items()}
    path = save([wrapped, {"param_groups": []}, 3, 40, ema])
    raw, mean = (interop.load(path, weights=kind, image_size=SIDE) for kind in ("raw", "ema"))
    assert mean.facts["step"] == 40
    for name, value in raw.state.items():
        torch.testing.assert_close(mean.state[name], 2 * value, rtol=0, atol=0)
    with pytest.raises(ValueError, match="weights='raw'"):
        interop.load(save([wrapped, {}, 3, 40]), image_size=SIDE)
    for wrong in ({}, {"other": torch.ones(2)}, {"conv_in.bias": torch.ones(3)}):
        with pytest.raises(CheckpointError, match="weights='raw'"):
            interop.load(save([wrapped, {}, 3, 40, wrong]), image_size=SIDE)


def test_the_size_of_the_images_is_asked_for(state, save):
    with pytest.raises(ValueError, match="image_size"):
        interop.load(save(state))
    with pytest.raises(ValueError, match="preset"):
        interop.load(save(state), preset="mnist")
    assert interop.load(save(state), preset="celeba").event_shape == (3, 64, 64)


@pytest.mark.parametrize("break_", ["missing", "extra", "shape", "level"])
def test_weights_that_do_not_fit_are_refused(break_, state, save):
    name = "up.1.block.2.conv2.weight"
    if break_ == "missing":
        del state[name]
    elif break_ == "extra":
        state["up.1.block.3.conv2.weight"] = state[name]
    elif break_ == "shape":
        state[name] = state[name][1:]
    else:
        state = {key: value for key, value in state.items() if not key.startswith("down.0.")}
    with pytest.raises(CheckpointError):
        interop.load(save(state), image_size=SIDE)
