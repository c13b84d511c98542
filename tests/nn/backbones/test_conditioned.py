"""Conditions around a network: images beside x, encoders, and what is refused."""

from __future__ import annotations

import pytest
import torch

from sde_score import nn

EVENT = (2, 4, 6)
X, LEVEL = torch.randn(3, *EVENT, generator=torch.Generator().manual_seed(0)), torch.zeros(3)
KINDS = {"label": 3, "size": (2,), "map": (1, 4, 6)}


class Input(torch.nn.Module):
    """Answers with what it is given as x, and keeps the condition."""

    def forward(self, x, time_label, condition=None):
        self.seen, self.told = x, condition
        return x


def test_an_image_is_followed_by_its_indicator():
    inner = Input()
    image = torch.arange(24.0).reshape(1, 1, 4, 6).expand(3, 1, 4, 6).clone()
    image[1, 0, 2, 2] = torch.nan
    answer = nn.Concatenated(inner, EVENT, (1, 4, 6))(X, LEVEL, image)
    assert torch.equal(answer, X)
    assert inner.told is None
    assert torch.equal(inner.seen[:, :2], X)
    assert torch.equal(inner.seen[[0, 2], 2:3], image[[0, 2]])
    assert torch.equal(inner.seen[1, 2:], torch.zeros(2, 4, 6))
    assert torch.equal(inner.seen[[0, 2], 3], torch.ones(2, 4, 6))
    nn.Concatenated(inner, EVENT, (1, 4, 6))(X, LEVEL)
    assert torch.equal(inner.seen[:, 2:], torch.zeros(3, 2, 4, 6))


def test_what_is_no_image_goes_on_to_the_network():
    inner = Input()
    told = {"label": torch.tensor([0, 1, 2]), "map": torch.ones(3, 1, 4, 6)}
    nn.Concatenated(inner, EVENT, KINDS)(X, LEVEL, {**told, "augment": torch.ones(3, 9)})
    assert list(inner.told) == ["label", "augment"]


def test_an_encoder_stands_before_the_network_and_keeps_none():
    """A quarter-size image is enlarged, its examples without one have none behind the encoder."""
    inner = Input()
    seeing = nn.Concatenated(inner, EVENT, (1, 4, 6))
    net = nn.Encoded(seeing, torch.nn.Upsample((4, 6)), condition_shape=(1, 2, 3))
    small = torch.rand(3, 1, 2, 3)
    small[0] = torch.nan
    net(X, LEVEL, small)
    enlarged = torch.nn.functional.interpolate(small, (4, 6))
    assert torch.equal(inner.seen[1:, 2:3], enlarged[1:])
    assert torch.equal(inner.seen[:, 3].amax((1, 2)), torch.tensor([0.0, 1.0, 1.0]))
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2))
    named = nn.Encoded(inner, {"size": encoder})
    named(X, LEVEL, {"label": torch.tensor([0, 1, 2]), "size": small})
    assert torch.equal(inner.told["label"], torch.tensor([0, 1, 2]))
    assert torch.equal(inner.told["size"][1:], encoder(small[1:]))
    assert inner.told["size"][0].isnan().all()
    with pytest.raises(ValueError, match=r"\(3, 1, 4, 6\) must have one image per example"):
        net(X, LEVEL, torch.rand(3, 1, 4, 6))
    with pytest.raises(TypeError, match=r"encoder is .*; accepted: a torch\.nn\.Module"):
        nn.Encoded(inner, lambda value: value)


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        ((1, 2, 3), r"does not have the sides of the examples, \(4, 6\): resize it.*Upsample"),
        ({"low": (1, 2)}, r"low of shape \(1, 2\) .*: flatten it"),
        ({}, "has no names"),
        ({"two words": 3}, r"'two words' cannot name a condition"),
        ({"augment": 3}, "other than augment, estimate, observed and end_noise_level"),
        ({"label": 0}, r"condition_shape\['label'\]=0 must be"),
        ({"size": ()}, r"condition_shape\['size'\]=\(\) must be a shape"),
        ({"label": 10**13}, r"condition_shape={'label': 10000000000000} needs .* of memory"),
        ((10**13, 4, 6), "of memory, more than"),
        ({"size": "3"}, r"condition_shape\['size'\]='3' must be a tuple of integers"),
    ],
    ids=str,
)
def test_declarations_that_do_not_fit_are_refused(kinds, says):
    with pytest.raises((ValueError, TypeError), match=says):
        nn.create("mlp(width=4, depth=1)", EVENT, condition_shape=kinds)


def test_a_dictionary_is_compiled_without_breaks():
    net = nn.create("mlp(width=4, depth=1)", EVENT, condition_shape=KINDS)
    told = {"label": torch.tensor([0, -1, 2]), "map": torch.rand(3, 1, 4, 6)}
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X, LEVEL, told), net(X, LEVEL, told))


def test_classes_and_others_are_declared_in_one_dictionary():
    with pytest.raises(ValueError, match=r"give one, or a dictionary, as"):
        nn.create("mlp", EVENT, 3, (1, 4, 6))
    with pytest.raises(ValueError, match="takes no condition_shape"):
        nn.create("refinenet", EVENT, condition_shape=(3,))


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (
            torch.zeros(3, dtype=torch.int64),
            r"of label \(0 \.\.\. 2\), size \(2,\), map",
        ),
        ({"lable": torch.zeros(3)}, r"condition has 'lable'; accepted: label, size, map"),
        ({"label": torch.tensor([0, 3, 1])}, r"condition\['label'\] has labels from 0 to 3"),
        (
            {"label": torch.zeros(3)},
            r"condition\['label'\] must be a tensor of integer.*long",
        ),
        (
            {"size": torch.zeros(3, 1)},
            r"\['size'\] of shape \(3, 1\) must have one vector",
        ),
        ({"map": torch.zeros(3, 4, 6)}, r"condition\['map'\] of shape .* one image per example"),
    ],
    ids=str,
)
def test_conditions_that_were_not_declared_are_refused(told, says):
    net = nn.create("mlp(width=4, depth=1)", EVENT, condition_shape=KINDS)
    with pytest.raises((ValueError, TypeError), match=says):
        net(X, LEVEL, told)
    with pytest.raises((ValueError, TypeError)):
        nn.create("mlp(width=4, depth=1)", EVENT, condition_shape={"label": 3, "size": (2,)})(
            X, LEVEL, told
        )
