"""Arguments checked by their annotations."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from sde_score._core.arguments import check_fields, checked, naming_arguments
from sde_score._core.errors import ArgumentError

if TYPE_CHECKING:
    from nowhere import Hidden


class Part:
    pass


@dataclass(frozen=True)
class Base:
    steps: int = 10

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Thing(Base):
    size: float = 1.0
    top: float = math.inf
    on: bool = False
    word: str = "a"
    maybe: int | None = None
    part: str | Part = "part"
    level: float | str | Part = 0.5
    hidden: Hidden | str = "x"
    anything: Any = 3
    path: str | Path = "x"
    function: Callable[[Tensor], Tensor] | None = None
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)
    many: Sequence[float] | None = None
    kind: Literal["a", "b"] = "a"
    made: int = field(default=0, init=False)


HUGE = 10**400
WRONG = {
    "steps": ["3", 2.0, None, True, math.nan, [1], object(), int],
    "size": ["3", None, True, math.nan, math.inf, HUGE, [1.0], 1j, float],
    "top": ["3", None, math.nan, -math.inf, False],
    "on": ["False", 0, 1, 1.5, math.nan, None, [], bool],
    "word": [3, None, b"a", True, ["a"]],
    "maybe": ["3", 1.5, True, []],
    "part": [3, 1.5, None, True, [], object(), Part, math.nan],
    "level": [None, True, math.nan, HUGE, [], Part, object()],
    "hidden": [3, None, True, 1.5, Part],
    "path": [3, None, b"x", [], "", "a\0b"],
    "function": [3, "abs", int, []],
    "sizes": [3, "12", None, (1.5,), ("1",), (True,), {1, 2}],
    "pair": [3, (1.0,), (1.0, 2.0, 3.0), (1.0, math.nan), ("a", "b")],
    "many": [3, "12", [None], [math.inf]],
    "kind": ["c", 3, None],
}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, wrong) for name, values in WRONG.items() for wrong in values],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_values_of_another_kind_are_refused_by_name(name, wrong):
    with pytest.raises(ArgumentError, match=rf"^{name}(\[0\])?=.* must be "):
        Thing(**{name: wrong})


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("size", 3),
        ("top", math.inf),
        ("on", True),
        ("maybe", None),
        ("maybe", 3),
        ("part", Part()),
        ("level", 1),
        ("level", Part()),
        ("hidden", object()),
        ("anything", object()),
        ("anything", 0.25),
        ("anything", None),
        ("path", Path("x")),
        ("function", torch.exp),
        ("many", [1, 2.0]),
        ("many", (1, 2.0)),
        ("kind", "b"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_values_of_the_kind_are_kept(name, right):
    assert getattr(Thing(**{name: right}), name) is right


@pytest.mark.parametrize(
    ("name", "given", "plain"),
    [
        ("steps", np.int64(3), 3),
        ("steps", np.array(3), 3),
        ("size", np.float32(0.5), 0.5),
        ("size", np.float64(0.5), 0.5),
        ("on", np.True_, True),
        ("sizes", [np.int64(3), 4], (3, 4)),
        ("sizes", np.array([3, 4]), (3, 4)),
        ("pair", np.array([3.0, 4.0]), (3.0, 4.0)),
    ],
)
def test_scalars_of_numpy_and_lists_become_what_they_mean(name, given, plain):
    found = getattr(Thing(**{name: given}), name)
    assert repr(found) == repr(plain)
    assert Thing(**{name: given}) == Thing(**{name: plain})


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("steps", "3", "steps='3' must be an integer: write it without quotes"),
        ("maybe", "x", "maybe='x' must be an integer or None"),
        ("level", None, "level=None must be a finite number or text or an object of class Part"),
        ("part", Part, "must be text or an object of class Part: Part is a class, write Part()"),
        ("sizes", 3, "sizes=3 must be a tuple of integers: write (3,)"),
        ("sizes", (3, 1.5), "sizes[1]=1.5 must be an integer"),
        ("many", [3, None], "many[1]=None must be a finite number"),
        ("pair", 3, "pair=3 must be a tuple of 2 finite numbers"),
        ("kind", "c", "kind='c' must be text, one of: a, b"),
        ("path", 3, "path=3 must be text or a path"),
        ("function", 3, "function=3 must be a function or None"),
    ],
)
def test_a_refusal_says_what_is_accepted(name, wrong, says):
    with pytest.raises(ArgumentError) as caught:
        Thing(**{name: wrong})
    assert says in str(caught.value)


def test_functions_and_constructors_are_checked_as_well():
    @checked
    def draw(n: int, seed: int = 0, *rest: int, width: float = 0.5, **more: int) -> int:
        """Documented."""
        return n

    class Net:
        @checked
        def __init__(self, shape: tuple[int, ...], width: int = 8) -> None:
            self.shape, self.width = shape, width

    assert type(draw(np.int64(3), 4, "any", width=1, other="any")) is int
    assert draw.__doc__ == "Documented."
    assert list(inspect.signature(draw).parameters) == ["n", "seed", "rest", "width", "more"]
    with pytest.raises(ArgumentError, match=r"^seed='1' must be an integer"):
        draw(3, "1")
    with pytest.raises(TypeError, match="missing a required argument: 'n'"):
        draw()
    assert Net([1, np.int64(2)]).shape == (1, 2)
    with pytest.raises(ArgumentError, match=r"^width=2.5 must be an integer"):
        Net((1,), width=2.5)


def test_what_is_refused_inside_names_what_was_given():
    """A part that is given `base` times two knows nothing of `base`."""

    def part(channels):
        if channels < 1:
            raise ValueError(f"channels={channels} must be above 0")
        raise RuntimeError("Storage size calculation overflowed\nC++ frames")

    @naming_arguments
    def whole(shape, base=4, depth=2):  # depth is never looked at
        part(base * 2)

    with pytest.raises(ArgumentError, match=r"^base=0: channels=0 must be above 0$"):
        whole((3,), base=0)
    with pytest.raises(ArgumentError, match=r"^depth=1: Storage size calculation overflowed$"):
        whole((3,), depth=1)
    with pytest.raises(RuntimeError, match="overflowed"):
        whole((3,))
