"""Refusals at the door: what came, what is accepted, and a fix that works."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sde_score._core import checks
from sde_score._core.errors import ArgumentError
from sde_score.scaling import Scaling  # noqa: F401 (a fix names it)

HUGE = 10**400
NO_NUMBERS = ["1", None, True, np.True_, [1.0], 1j, math.nan, math.inf, HUGE, -HUGE, object(), int]
NUMPY_SEVENS = [
    np.int64(7),
    np.uint8(7),
    np.float32(7),
    np.float64(7),
    np.array(7),
    np.array(7.0),
]


class Rude:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("wrong", NO_NUMBERS, ids=lambda value: str(type(value)))
@pytest.mark.parametrize(
    "check",
    [
        checks.require_finite,
        checks.require_positive,
        checks.require_nonnegative,
        checks.require_count,
        lambda **values: checks.require_increasing(**values, high=9.0),
    ],
)
def test_what_is_no_finite_number_is_refused_by_name(check, wrong):
    with pytest.raises(ArgumentError, match=r"^eta=.* must be an? .*(number|integer)"):
        check(eta=wrong)


def test_integers_may_have_any_number_of_digits():
    checks.require_integer(seed=HUGE, other=-HUGE)


@pytest.mark.parametrize("seven", NUMPY_SEVENS, ids=lambda value: f"{type(value)}")
def test_scalars_of_numpy_are_numbers(seven):
    checks.require_finite(eta=seven)
    checks.require_positive(eta=seven)
    checks.require_nonnegative(eta=seven)
    assert checks.plain(seven) == 7
    assert type(checks.plain(seven)) in (int, float)
    if isinstance(checks.plain(seven), int):
        checks.require_count(eta=seven)
        checks.require_integer(eta=seven)


@pytest.mark.parametrize(
    ("check", "wrong", "says"),
    [
        (checks.require_positive, 0, "eta=0 must be a finite number greater than 0"),
        (checks.require_positive, -0.5, "eta=-0.5 must be a finite number greater than 0"),
        (checks.require_nonnegative, -1, "eta=-1 must be a finite number of at least 0"),
        (checks.require_count, 0, "eta=0 must be an integer of at least 1"),
        (checks.require_count, 2.0, "eta=2.0 must be an integer of at least 1"),
        (checks.require_count, 2**63, f"eta={2**63} must be an integer from 1 to {2**63 - 1}"),
        (checks.require_count, HUGE, "eta=an integer of 1329 bits must be an integer from 1 to"),
        (checks.require_finite, "3", "eta='3' must be a finite number: write it without quotes"),
        (checks.require_finite, "three", "eta='three' must be a finite number"),
        (
            checks.require_finite,
            torch.ones(1),
            "of shape (1,) must be a finite number: try eta.item()",
        ),
        (checks.require_finite, np.ones((1, 1)), "must be a finite number: try eta.item()"),
    ],
)
def test_a_refusal_says_what_came_and_what_is_accepted(check, wrong, says):
    with pytest.raises(ArgumentError) as caught:
        check(eta=wrong)
    assert says in str(caught.value)


def test_every_argument_is_looked_at():
    with pytest.raises(ValueError, match=r"^second=None must be a finite number$"):
        checks.require_finite(first=1.0, second=None, third="x")


def test_a_refusal_can_be_caught_as_either_error():
    for error in (ValueError, TypeError):
        with pytest.raises(error):
            checks.require_count(on="yes")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        ("a\nb", r"'a\nb'"),
        pytest.param(10**5000, "an integer of 16610 bits", id="digits"),
        pytest.param([10**5000], "an object of class list", id="digits in a list"),
        (Rude(), "an object of class Rude"),
        (torch.zeros(2, 3), "a torch.float32 tensor of shape (2, 3)"),
        (np.zeros(3, dtype=np.int16), "a int16 array of shape (3,)"),
        ("x" * 200, "'" + "x" * 75 + " ..."),
    ],
)
def test_every_value_is_shown_on_one_short_line(value, text):
    assert checks.shown(value) == text
    assert len(checks.shown(value)) <= 80


def test_bounds_must_increase():
    checks.require_increasing(low=1, high=2)
    with pytest.raises(ValueError, match=r"high=1 must exceed low=1: it is the largest noise"):
        checks.require_increasing("it is the largest noise", low=1, high=1)


def test_choices_are_listed_with_a_guess():
    checks.require_choice("kind", "midpoint", ["euler", "midpoint"])
    with pytest.raises(ValueError, match=r"kind='midpont' is not known; did you mean 'midpoint'\?"):
        checks.require_choice("kind", "midpont", ("euler", "midpoint"))
    with pytest.raises(ValueError, match=r"kind='zzz' is not known; accepted: euler, midpoint"):
        checks.require_choice("kind", "zzz", ("euler", "midpoint"))
    for wrong in (3, None, ["euler"], np.zeros(3), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"^kind=.* must be text, one of: euler"):
            checks.require_choice("kind", wrong, ("euler",))


@pytest.mark.parametrize(
    "shape", [(3, 4), [3, 4], torch.Size([3, 4]), np.array([3, 4]), (np.int64(3), np.array(4))]
)
def test_shapes_become_plain_tuples(shape):
    found = checks.require_shape("event", shape)
    assert found == (3, 4)
    assert type(found) is tuple
    assert all(type(size) is int for size in found)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (5, r"event=5 must be a tuple of integers: write \(5,\)"),
        (np.int64(5), r"must be a tuple of integers: write \(5,\)"),
        ("5", r"event='5' must be a tuple of integers: such as \(3, 32, 32\)"),
        ((2.0,), r"event\[0\]=2.0 must be an integer"),
        ((True,), r"event\[0\]=True must be an integer"),
        (None, r"event=None must be a tuple of integers"),
        (torch.zeros(2), r"event=a torch.float32 tensor of shape \(2,\) must be a tuple"),
        (np.array(3.5), r"event=.* must be a tuple of integers"),
        ((3, 0), r"event\[1\]=0 must be an integer of at least 1"),
    ],
)
def test_what_is_no_shape_is_refused(wrong, says):
    with pytest.raises(ArgumentError, match=says):
        checks.require_shape("event", wrong)


@pytest.mark.parametrize(
    "values", [1, 2.5, np.float32(2), (1, 2), [[1.0, 2], [3, 4]], np.eye(2), torch.eye(2)]
)
def test_numbers_in_rows_are_accepted(values):
    found = checks.require_numbers("mean", values)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.as_tensor(values, dtype=torch.float64))


@pytest.mark.parametrize(
    "wrong",
    ["a", [], ["a"], None, [None], True, [True], math.nan, [1, math.inf], [[1], [1, 2]], HUGE, {}],
)
def test_what_is_no_number_in_rows_is_refused(wrong):
    with pytest.raises(ArgumentError, match=r"^mean=.* must be a finite number, or finite numbers"):
        checks.require_numbers("mean", wrong)


WRONG_BATCHES = [
    np.zeros((2, 2)),
    np.zeros((2, 2), np.float32),
    np.zeros((2, 2), np.uint8),
    torch.zeros(2, 2).long(),
    torch.zeros(2, 2).byte(),
    torch.zeros(2, 2).bool(),
    torch.zeros(2, 2, dtype=torch.complex64),
    [[1.0, 2.0]],
    [[1, 2]],
    ((1.0, 2.0),),
]


@pytest.mark.parametrize("x", WRONG_BATCHES, ids=checks.class_of)
def test_the_fix_for_a_wrong_batch_works(x):
    with pytest.raises(
        TypeError, match=r"^x must be a floating-point tensor, got .*: try "
    ) as said:
        checks.require_batch("x", x)
    checks.require_batch("x", eval(str(said.value).partition(": try ")[2]))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (nn.Linear(2, 2), "got Linear, which is no data: the model has an argument of its own"),
        (nn.Linear, "got the class Linear"),
        (None, "got NoneType$"),
        (3, "got int$"),
        ("x", "got str$"),
        (np.array(["a"]), "got a NumPy array of <U1$"),
    ],
)
def test_no_fix_is_said_where_there_is_none(wrong, says):
    with pytest.raises(TypeError, match=says):
        checks.require_batch("x", wrong)


def test_a_scalar_is_no_batch():
    with pytest.raises(ValueError, match=r"x must have shape \(batch, \*event\), got a scalar"):
        checks.require_batch("x", torch.tensor(1.0))


@pytest.mark.parametrize("event", [(), (2,), (1, 2, 2)])
def test_examples_that_are_not_finite_are_counted(event):
    x = torch.zeros(5, *event)
    checks.require_examples("x0", x)
    x[2] = math.nan
    x[4] = math.inf
    with pytest.raises(
        ValueError, match=r"x0 is not finite in 2 of 5 examples, the first is x0\[2"
    ):
        checks.require_examples("x0", x)
    with pytest.raises(ValueError, match=r"x0 of shape \(0.*\) holds no examples"):
        checks.require_examples("x0", x[:0])


@pytest.mark.parametrize(
    "t",
    [1, 0.5, np.float64(0.5), np.int32(1), np.array(0.5), np.array([0.5, 1]), torch.tensor([1])],
)
def test_times_become_floating_point_tensors(t):
    found = checks.as_time(t)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.as_tensor(t).double())


def test_a_time_that_is_a_tensor_is_left_alone():
    t = torch.tensor([0.5])
    assert checks.as_time(t) is t


@pytest.mark.parametrize("wrong", ["0.5", None, True, 1j, torch.tensor(True), [], int, HUGE])
def test_what_is_no_time_is_refused(wrong):
    with pytest.raises(ArgumentError, match=r"^t=.* must be a"):
        checks.as_time(wrong)


def test_a_coefficient_fits_its_batch_or_is_refused():
    x = torch.zeros(3, 2, 2)
    assert checks.expand_like(torch.ones(3, dtype=torch.float64), x).shape == (3, 1, 1)
    assert checks.expand_like(torch.tensor(2.0), x).shape == ()
    for wrong in (torch.ones(2), torch.ones(3, 1), torch.ones(1)):
        with pytest.raises(ValueError, match=r"^t of shape .* does not fit x of shape \(3, 2, 2\)"):
            checks.expand_like(wrong, x)
