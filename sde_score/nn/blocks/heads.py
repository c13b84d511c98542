r"""The product of attention, softmax(Q K^T / sqrt(d)) V, by the fastest way that serves."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from sde_score._core.gradients import values_alone

# Queries from which the fused product is faster on a CPU: for values, and for training, where the
# products written out are faster by a third at 16 x 16.
_VALUES_FROM, _TRAINING_FROM = 128, 512


def attend(tokens: Tensor, heads: int, second_derivatives: bool = True) -> Tensor:
    r"""Self-attention of vectors that hold queries, keys and values.

    .. math:: \mathrm{softmax}(Q K^T / \sqrt{d}) \, V

    with d numbers a head. torch's fused attention gives values and first derivatives alone, so
    it is taken where no more is asked for; the same numbers up to rounding.

    Args:
        tokens: shape `(batch, n, 3 * width)`: queries, keys, values, each head a block of them.
        heads: number of heads, a divisor of the width.
        second_derivatives: False says that none are taken, nor forward mode or vmap.

    Returns:
        Shape `(batch, n, width)`.
    """
    batch, n, width = tokens.shape
    parts = tokens.reshape(batch, n, 3, heads, width // (3 * heads))
    # Taken apart where they lie, so that the gradient comes back in the layout of the tokens.
    q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
    training = not second_derivatives and n >= _TRAINING_FROM
    if training or (n >= _VALUES_FROM and values_alone()):
        found = F.scaled_dot_product_attention(q, k, v)
    else:
        found = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1) @ v
    return found.transpose(1, 2).reshape(batch, n, width // 3)
