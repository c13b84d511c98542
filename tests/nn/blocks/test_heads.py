"""The product of attention: its formula, whichever way it is computed, and its derivatives."""

from __future__ import annotations

import pytest
import torch

from sde_score.nn.blocks import heads
from sde_score.nn.blocks.heads import attend


def tokens(n=5):
    draw = torch.randn(2, n, 3 * 6, generator=torch.Generator().manual_seed(0))
    return draw.double().requires_grad_(True)


def formula(x, number):
    """One example and one head at a time."""
    width, examples = 6 // number, []
    for one in x.split(1):
        queries, keys, values = (third.split(width, dim=1) for third in one[0].split(6, dim=1))
        found = []
        for q, k, v in zip(queries, keys, values, strict=True):
            weights = torch.exp(torch.einsum("ic,jc->ij", q, k) / width**0.5)
            found.append(weights / weights.sum(1, keepdim=True) @ v)
        examples.append(torch.cat(found, dim=1))
    return torch.stack(examples)


@pytest.mark.parametrize("number", [1, 3])
def test_every_way_gives_the_formula(number, monkeypatch):
    x = tokens()
    expected = formula(x, number)
    w = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    (slope,) = torch.autograd.grad(expected, x, w)
    ways = [lambda: attend(x, number), lambda: attend(x, number, second_derivatives=False)]
    for fused_from in (512, 1):
        monkeypatch.setattr(heads, "_VALUES_FROM", fused_from)
        monkeypatch.setattr(heads, "_TRAINING_FROM", fused_from)
        for way in ways:
            found = way()
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(torch.autograd.grad(found, x, w)[0], slope)
            with torch.no_grad():
                torch.testing.assert_close(way(), expected)


def test_forward_mode_and_vmap_work_where_gradients_are_off(monkeypatch):
    """Fused attention would refuse both."""
    monkeypatch.setattr(heads, "_VALUES_FROM", 1)
    x, v = tokens().detach(), torch.ones(2, 5, 18, dtype=torch.float64)
    _, expected = torch.func.jvp(lambda z: attend(z, 3), (x,), (v,))
    with torch.no_grad():
        _, pushed = torch.func.jvp(lambda z: attend(z, 3), (x,), (v,))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, v)
            by_dual = torch.autograd.forward_ad.unpack_dual(attend(dual, 3)).tangent
        singly = torch.func.vmap(lambda z: attend(z[None], 3)[0])(x)
        torch.testing.assert_close(singly, attend(x, 3))
    torch.testing.assert_close(pushed, expected)
    torch.testing.assert_close(by_dual, expected)
