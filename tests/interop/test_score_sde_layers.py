"""The configuration of any network of score_sde, from the order of its modules."""

from __future__ import annotations

import itertools

import pytest
import torch

from sde_score import interop
from sde_score.interop.score_sde_layers import Layers

BASE = {
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (False, True),
    "fourier": True,
    "fir": True,
    "way": "block",
    "input": None,
    "output": None,
    "concatenate": False,
    "channels": 3,
}


class Writer:
    """State of a network, all zeros, its modules numbered as in the published code."""

    def __init__(self, config):
        self.state, self.number, self.config = {}, 0, config
        self.width = 32 * config["multipliers"][0]

    def add(self, **layers):
        """One module, each layer by its name and shape."""
        for name, shape in layers.items():
            name = name.replace("__", ".")
            self.state[f"all_modules.{self.number}.{name}"] = torch.zeros(shape)
        self.number += 1

    def layer(self, *shape):
        self.add(weight=shape, bias=shape[:1])

    def wrapped(self, name, out, inputs, taps=3):
        self.add(**{f"{name}__weight": (out, inputs, taps, taps), f"{name}__bias": (out,)})

    def resampled(self, out, inputs):
        self.wrapped("Conv2d_0" if self.config["fir"] else "Conv_0", out, inputs)

    def block(self, out, inputs=None, resamples=False):
        inputs = self.width if inputs is None else inputs
        layers = {"GroupNorm_0": (inputs,), "Conv_0": (out, inputs, 3, 3)}
        layers |= {"Dense_0": (out, 128), "GroupNorm_1": (out,), "Conv_1": (out, out, 3, 3)}
        biggan = self.config["way"] == "block"
        if biggan and (resamples or inputs != out):
            layers["Conv_2"] = (out, inputs, 1, 1)
        named = {f"{name}__weight": shape for name, shape in layers.items()}
        named |= {f"{name}__bias": (inputs if name == "GroupNorm_0" else out,) for name in layers}
        if not biggan and inputs != out:
            named |= {"NIN_0__W": (inputs, out), "NIN_0__b": (out,)}
        self.add(**named)
        self.width = out

    def attend(self):
        width = self.width
        nins = {f"NIN_{k}__{key}": shape for k in range(4) for key, shape in self.nin(width)}
        self.add(GroupNorm_0__weight=(width,), GroupNorm_0__bias=(width,), **nins)

    @staticmethod
    def nin(width):
        return (("W", (width, width)), ("b", (width,)))

    def way(self):
        """Half or twice the size."""
        kind = self.config["way"]
        if kind == "block":
            self.block(self.width, resamples=True)
        elif kind == "conv":
            self.resampled(self.width, self.width)
        else:
            self.add()

    def head(self, out):
        self.layer(self.width)
        self.layer(out, self.width, 3, 3)


def state_of(config):
    """State of a network."""
    write, multipliers, channels = Writer(config), config["multipliers"], config["channels"]
    last = len(multipliers) - 1
    if config["fourier"]:
        write.add(W=(32,))
    write.layer(128, 64 if config["fourier"] else 32)
    write.layer(128, 128)
    write.layer(32, channels, 3, 3)
    write.width, kept, pyramid = 32, [32], channels
    for level, multiplier in enumerate(multipliers):
        for _ in range(config["blocks"]):
            write.block(32 * multiplier)
            if config["attention"][level]:
                write.attend()
            kept.append(write.width)
        if level < last:
            write.way()
            if config["input"] == "skip":
                write.wrapped("Conv_0", write.width, pyramid, 1)
                write.width *= 2 if config["concatenate"] else 1
            elif config["input"] == "residual":
                write.resampled(write.width, pyramid)
                pyramid = write.width
            kept.append(write.width)
    write.block(write.width)
    write.attend()
    write.block(write.width)
    for level in range(last, -1, -1):
        for _ in range(config["blocks"] + 1):
            write.block(32 * multipliers[level], write.width + kept.pop())
        if config["attention"][level]:
            write.attend()
        if config["output"] == "skip":
            write.head(channels)
        elif config["output"] == "residual":
            if level == last:
                write.head(write.width)
            else:
                write.resampled(write.width, pyramid)
            pyramid = write.width
        if level:
            write.way()
    if config["output"] != "skip":
        write.head(channels)
    return write.state


CONFIGS = [
    {"way": way, "input": before, "output": after}
    for way, before, after in itertools.product(
        ("block", "conv", "filter"), (None, "skip", "residual"), (None, "skip", "residual")
    )
] + [
    {"multipliers": (1, 1, 2, 2), "attention": (False, True, False, False), "blocks": 2},
    {"multipliers": (1, 1, 1), "attention": (True, True, True), "input": "skip"},
    {"multipliers": (1, 1, 2), "attention": (False,) * 3, "input": "skip", "concatenate": True},
    {"multipliers": (2, 1), "fourier": False, "fir": False, "input": "residual"},
    {"fir": False, "input": "skip", "output": "skip"},
    {"multipliers": (1, 2, 3), "attention": (False, False, True), "fourier": False, "way": "conv"},
    {"multipliers": (1,), "attention": (False,), "blocks": 3, "channels": 1},
]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_every_configuration_is_read_off(changes, tmp_path):
    config = BASE | changes
    state = state_of(config)
    found = Layers.of(state)
    assert found.widths == tuple(32 * multiplier for multiplier in config["multipliers"])
    assert found.blocks == config["blocks"]
    assert found.attention == config["attention"]
    assert found.way == (config["way"] if len(found.widths) > 1 else "block")
    assert (found.input_branch, found.output_branch) == (config["input"], config["output"])
    assert found.concatenate == config["concatenate"]
    assert found.fir in (config["fir"], None)
    assert found.channels == config["channels"]
    state["sigmas"] = torch.tensor([1.0, 0.1])
    torch.save(state, tmp_path / "checkpoint.pth")
    asked = {"image_size": 16, "sde": "ve", "fir": config["fir"], "network": "ncsnpp"}
    imported = interop.load(tmp_path / "checkpoint.pth", **asked)
    assert f"fir={config['fir']}" in imported.backbone
