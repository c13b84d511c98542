"""Records: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from sde_score._core.records import Record


@dataclass(frozen=True)
class Part(Record):
    size: float


@dataclass(frozen=True)
class Whole(Record):
    name: str
    count: int
    parts: tuple[Part, ...]
    by: Mapping[str, Part]
    center: float | tuple[float, ...] = 0.0
    best: Part | None = None
    unknown: float = math.nan
    notes: dict[str, str] = field(default_factory=dict)


WHOLE = Whole("a", 3, (Part(1.0), Part(1 / 3)), {"x": Part(2.0)}, (1.0, 2.0), Part(0.5), 0.25)


@pytest.mark.parametrize("whole", [WHOLE, Whole("b", 0, (), {}, 0.1, None, 0.1, {"k": "v"})])
def test_a_record_survives_json(whole):
    text = json.dumps(whole.record(), allow_nan=False)
    assert Whole.from_record(json.loads(text)) == whole


def test_a_number_that_is_none_is_kept_as_none():
    bare = Whole("c", 1, (), {})
    assert bare.record()["unknown"] is None
    assert math.isnan(Whole.from_record(bare.record()).unknown)
    with pytest.raises(TypeError, match="size"):
        Part.from_record({"size": None})


def test_integers_become_floating_point_numbers_where_those_are_kept():
    size = Part.from_record({"size": 1}).size
    assert type(size) is float


def test_tensors_are_left_out():
    @dataclass(frozen=True, eq=False)
    class Drawn(Record):
        samples: Tensor
        nfe: int

    assert Drawn(torch.zeros(2), 5).record() == {"nfe": 5}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": 3}, "name=3"),
        ({"count": "3"}, "count='3'"),
        ({"count": True}, "count=True"),
        ({"parts": "ab"}, "parts='ab'"),
        ({"parts": [1]}, "Part=1"),
        ({"parts": [{"size": "1"}]}, "size='1'"),
        ({"by": [1]}, "by"),
        ({"by": {"x": {}}}, "lacks size"),
        ({"center": "0"}, "center='0'"),
        ({"center": [0.0, "1"]}, r"center\[1\]='1'"),
        ({"best": []}, "Part"),
        ({"unknown": "nan"}, "unknown='nan'"),
        ({"notes": {"k": 1}}, r"notes\['k'\]=1"),
        ({"more": 1}, "does not take more"),
    ],
)
def test_anything_else_is_refused_by_name(change, says):
    with pytest.raises((TypeError, ValueError), match=says):
        Whole.from_record({**WHOLE.record(), **change})
    with pytest.raises((TypeError, ValueError), match="lacks name"):
        Whole.from_record({k: v for k, v in WHOLE.record().items() if k != "name"})
    with pytest.raises((TypeError, ValueError), match="mapping"):
        Whole.from_record([])
