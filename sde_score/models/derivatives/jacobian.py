r"""Derivatives of a field x -> f(x), and of an energy x -> E(x), as products with vectors.

A field maps `(batch, *event)` to the same shape, example by example; a score is one. Its Jacobian
at an example is a D x D matrix over the flattened event,

.. math:: J_{ij} = \partial f_i / \partial x_j ,

never built unless it is asked for.

Where gradients are enabled everything returned carries a graph, to the field's parameters and, if
x requires a gradient, to x, so that objectives train through it; under `torch.no_grad()` nothing
does. x itself is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sde_score._core.checks import require_batch, require_choice, sum_event

Field = Callable[[Tensor], Tensor]
"""Maps `(batch, *event)` to the same shape, example by example."""

DERIVATIVE_MODES = ("reverse", "forward")

_VECTORS_AT_ONCE = 64


def attach(x: Tensor) -> Tensor:
    """x itself where its graph is to be kept, else a stand-in that takes a gradient."""
    require_batch("x", x)
    return x if torch.is_grad_enabled() and x.requires_grad else x.detach().requires_grad_()


def vector_jacobian(field: Field, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The field and J^T v at x: one forward and one backward pass.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example.
        x: where, shape `(batch, *event)`.
        v: one vector per example, shaped like x.

    Returns:
        Value and product, both shaped like x.

    Raises:
        TypeError: if x is not floating point.
        ValueError: if v or the value is not shaped like x, or the value has no graph.
    """
    _require_like("v", v, x)
    keep = torch.is_grad_enabled()
    value, point = value_and_point(field, x)
    product = pull(value, point, v, create_graph=keep)
    return (value if keep else value.detach()), product


def gradient_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient at x of a function that maps `(batch, *event)` to `(batch,)`, example by example."""
    keep, point = torch.is_grad_enabled(), attach(x)
    with torch.enable_grad():
        value = function(point).sum()
    return pull(value, point, torch.ones_like(value), create_graph=keep)


def jacobian_vector(field: Field, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    r"""The field and J v at x: one forward, one backward, one double-backward pass.

    .. math:: J v = \frac{\partial}{\partial u} (J^T u)^T v

    Where J is symmetric, as for the gradient of an energy, `vector_jacobian` is the same at half
    the price.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example.
        x: where, shape `(batch, *event)`.
        v: one vector per example, shaped like x.

    Returns:
        Value and product, both shaped like x.

    Raises:
        TypeError: if x is not floating point.
        ValueError: if v or the value is not shaped like x, or the value has no graph.
    """
    _require_like("v", v, x)
    keep = torch.is_grad_enabled()
    value, point = value_and_point(field, x)
    product = push(value, point, v, create_graph=keep)
    return (value if keep else value.detach()), product


def hessian_vector(
    energy: Callable[[Tensor], Tensor], x: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """An energy, its gradient and H v at x: one forward, one backward, one double-backward pass.

    Args:
        energy: maps `(batch, *event)` to `(batch,)`, example by example.
        x: where, shape `(batch, *event)`.
        v: one vector per example, shaped like x.

    Returns:
        Energy `(batch,)`, gradient and product, both shaped like x.

    Raises:
        TypeError: if x is not floating point.
        ValueError: if v is not shaped like x, or the energy is not one number per example or has
            no graph.
    """
    _require_like("v", v, x)
    keep, point = torch.is_grad_enabled(), attach(x)
    with torch.enable_grad():
        value = energy(point)
        _require_shape("the energy", value, (x.shape[0],))
        gradient = pull(value, point, torch.ones_like(value), create_graph=True)
    # The gradient of an energy that is linear in x has no graph: its Hessian is zero.
    product = torch.zeros_like(x)
    if gradient.requires_grad:
        product = pull(gradient, point, v, create_graph=keep)
    if keep:
        return value, gradient, product
    return value.detach(), gradient.detach(), product


def jacobian(field: Field, x: Tensor) -> Tensor:
    """The Jacobian of each example over its flattened event: one forward, D backward passes.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example.
        x: where, shape `(batch, *event)`.

    Returns:
        Shape `(batch, D, D)`: entry (b, i, j) is the derivative of value i with respect to x_j.

    Raises:
        TypeError: if x is not floating point.
        ValueError: if the value is not shaped like x, or has no graph.
    """
    keep = torch.is_grad_enabled()
    value, point = value_and_point(field, x)
    rows = [pull(value, point, e, create_graph=keep, retain=True) for e in unit_vectors(x)]
    return torch.stack([row.reshape(x.shape[0], -1) for row in rows], 1)


def value_and_forms(
    field: Field, x: Tensor, vectors: Tensor, mode: str = "reverse"
) -> tuple[Tensor, Tensor]:
    r"""A field and v^T J v for many vectors, from one call of the field.

    On a CPU with one thread, in ms per call with one vector (with several):

    ============================== ======== ============= ============ ==============
    network, batch                 its pass reverse       forward      vectors
    ============================== ======== ============= ============ ==============
    perceptron, 2-D, 512           4        8 (18)        15 (33)      1 (8)
    perceptron, 64-D, 16           2        4 (21)        12 (35)      1 (64, exact)
    U-Net, 8 x 8, 16               22       51 (118)      133 (172)    1 (4)
    U-Net, 28 x 28, 8              28       63 (171)      129 (243)    1 (4)
    ============================== ======== ============= ============ ==============

    So reverse mode is the default. Forward mode stores nothing, which counts where memory is short.

    Args:
        field: maps `(batch, *event)` to the same shape, example by example.
        x: where, shape `(batch, *event)`.
        vectors: n vectors per example, shape `(n, batch, *event)`.
        mode: one of `DERIVATIVE_MODES`: `reverse`, J^T v by a backward pass, or `forward`, J v
            along with the value, all vectors at once (`torch.func.jvp`).

    Returns:
        Value, like x, and forms, shape `(n, batch)`; both carry a graph where gradients are
        enabled.

    Raises:
        TypeError: if x is not floating point.
        ValueError: for an unknown mode, or a value that is not shaped like x or has no graph.
    """
    require_choice("mode", mode, DERIVATIVE_MODES)
    keep = torch.is_grad_enabled()
    if mode == "forward":
        point = x if keep else x.detach()
        values, pushed = torch.func.vmap(lambda v: push_forward(field, point, v))(vectors)
        _require_like("the field's value", values[0], x)
        return values[0], (vectors * pushed).reshape(*vectors.shape[:2], -1).sum(2)
    value, point = value_and_point(field, x)
    forms = quadratic_forms(value, point, vectors, create_graph=keep)
    return (value if keep else value.detach()), forms


def quadratic_forms(
    value: Tensor, point: Tensor, vectors: Tensor, create_graph: bool = False
) -> Tensor:
    """v^T J v of a field that has been evaluated: one backward pass per vector, or one for many
    where events are vectors.

    Args:
        value: of the field at `point`, shape `(batch, *event)`.
        point: where, a tensor like `value` that requires a gradient and that `value` was computed
            from.
        vectors: n vectors per example, shape `(n, batch, *event)`.
        create_graph: whether the forms are to be differentiated. If not, the graph of `value` may
            be released.

    Returns:
        Shape `(n, batch)`.

    Raises:
        ValueError: if `value` has no graph.
    """
    if len(vectors) > 2 and point.ndim <= 2 and not create_graph:
        try:
            return _batched_forms(value, point, vectors)
        except RuntimeError:  # a compiled module, or a custom function without a rule for vmap:
            pass  # one by one below, where an error that is no matter of vmap shows again
    forms = []
    for index, vector in enumerate(vectors):
        more = index + 1 < len(vectors)
        pulled = pull(value, point, vector, create_graph, retain=create_graph or more)
        forms.append(sum_event(pulled * vector))
    return torch.stack(forms)


def _batched_forms(value: Tensor, point: Tensor, vectors: Tensor) -> Tensor:
    """All v^T J v from backward passes of many vectors at once.

    On a CPU an exact trace in 64 dimensions, of a perceptron, takes half the time so; through
    convolutions it takes up to a fifth more.
    """

    def form(vector: Tensor) -> Tensor:
        return sum_event(pull(value, point, vector, create_graph=False, retain=True) * vector)

    forms: Tensor = torch.func.vmap(form, chunk_size=_VECTORS_AT_ONCE)(vectors)
    return forms


def unit_vectors(x: Tensor) -> Tensor:
    """The standard basis of the event for every example, a view of shape (D, batch, *event)."""
    size = math.prod(x.shape[1:])
    basis = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:])
    return basis.expand(size, *x.shape)


def value_and_point(field: Field, x: Tensor) -> tuple[Tensor, Tensor]:
    """The field's value and the point that it has a graph to, whatever the caller's mode."""
    point = attach(x)
    with torch.enable_grad():
        value = field(point)
    _require_like("the field's value", value, x)
    return value, point


def pull(
    value: Tensor, point: Tensor, vector: Tensor, create_graph: bool, retain: bool | None = None
) -> Tensor:
    """J^T v; zero where the value does not depend on the point, as long as it has a graph."""
    if not value.requires_grad:
        raise ValueError(
            "the value has no graph: it was computed under torch.no_grad() or inference_mode(), or "
            "from a detached x; evaluate the field where gradients are enabled"
        )
    (pulled,) = torch.autograd.grad(
        value, point, vector, retain, create_graph, materialize_grads=True
    )
    return pulled


def push(value: Tensor, point: Tensor, vector: Tensor, create_graph: bool) -> Tensor:
    """J v, by a derivative of J^T u, which is linear in u; the graph of the value is kept."""
    # Not by torch's forward mode: it drops its tangents, silently, where a score detaches x to
    # take the gradient of an energy, and its products through softmax cannot be differentiated.
    with torch.enable_grad():
        u = torch.zeros_like(value).requires_grad_()
        pulled = pull(value, point, u, create_graph=True)
    return pull(pulled, u, vector, create_graph, retain=True)


def push_forward(field: Field, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """The field and J v in forward mode; the tangent stops, silently, where a field detaches x."""
    found = torch.func.jvp(field, (x,), (vector,))
    return found[0], found[1]


def _require_like(name: str, tensor: Tensor, x: Tensor) -> None:
    _require_shape(name, tensor, tuple(x.shape))


def _require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; accepted: {shape}")
