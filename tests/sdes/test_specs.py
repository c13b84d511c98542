"""Names with arguments: what is written is what is read, and nothing is ever executed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sde_score._core.registry import Registry, format_spec, parse_spec, refuse_unknown

SCALARS = (
    st.integers()
    | st.booleans()
    | st.none()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner), max_leaves=4
)
KEYS = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True).map(lambda key: f"k_{key}")
NAMES = st.from_regex(r"[a-z][a-z0-9+-]{0,12}", fullmatch=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(name=NAMES, arguments=st.dictionaries(KEYS, VALUES, max_size=4))
def test_specs_survive_a_round_trip(name, arguments):
    back, values = parse_spec(format_spec(name, arguments))
    assert back == name
    assert values == arguments
    assert [type(v) for v in values.values()] == [type(v) for v in arguments.values()]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text())
def test_any_text_is_read_or_refused_with_a_value_error(text):
    try:
        name, values = parse_spec(text)
    except ValueError:
        return
    assert isinstance(name, str)
    assert isinstance(values, dict)


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("vp", "vp", {}),
        (" dpmpp-2m ", "dpmpp-2m", {}),
        ("vp()", "vp", {}),
        ("vp(beta_max=12)", "vp", {"beta_max": 12}),
        ("a-b( x = -1.5 , y='z' )", "a-b", {"x": -1.5, "y": "z"}),
        ("a(x=[1, (2,)], y=None, z=True)", "a", {"x": [1, (2,)], "y": None, "z": True}),
    ],
)
def test_plain_specs(text, name, values):
    assert parse_spec(text) == (name, values)


HOSTILE = [
    "vp(beta_max=__import__('os').system('true'))",
    "vp(beta_max=print(1))",
    "vp(beta_max=x)",
    "vp(beta_max=[i for i in (1,)])",
    "vp(beta_max=(lambda: 1)())",
    "vp(beta_max=1 .__class__)",
    "vp(beta_max=f'{1}')",
    "vp(beta_max=2**9)",
    "vp(12)",
    "vp(*[1])",
    "vp(**{'beta_max': 1})",
    "vp(beta_max=1, beta_max=2)",
    "vp(beta_max=1)(beta_min=2)",
    "vp(beta_max=1), print(1)",
    "vp(beta_max=1); import os",
    "vp(beta_max=1",
    "vp(",
    "vp(beta_max=)",
    "vp(beta_max=1\x00)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_or_broken_text_is_refused(text, capsys):
    with pytest.raises(ValueError, match=r"cannot read .*write name or name"):
        parse_spec(text)
    assert capsys.readouterr().out == ""


def test_registry_is_a_readable_dictionary():
    def one(a: int = 1) -> str:
        return f"one {a}"

    def two() -> str:
        return "two"

    registry = Registry("toy", {"two": two, "one-more": one})
    assert registry.names() == list(registry) == ["two", "one-more"]
    assert len(registry) == 2
    assert "two" in registry
    assert "three" not in registry
    assert registry["two"] is two
    assert registry.create("one-more(a=3)") == "one 3"
    assert registry.create("one-more(a=3)", a=4) == "one 4"
    with pytest.raises(ValueError, match="unknown toy 'one-mor'; did you mean 'one-more'"):
        registry["one-mor"]
    with pytest.raises(ValueError, match="unknown toy 'zzz'; accepted: two, one-more"):
        registry.create("zzz")
    with pytest.raises(ValueError, match="toy 'two' does not take a; accepted: no arguments"):
        registry.create("two", a=1)


def test_unknown_arguments_are_all_named():
    refuse_unknown("thing", ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="thing does not take c, d; accepted: a, b"):
        refuse_unknown("thing", ["c", "a", "d"], ["a", "b"])


@pytest.mark.parametrize("text", ["vp(a=" + "-" * 3000 + "1)", "vp(a=" + "(" * 5000])
def test_deep_nesting_is_refused_like_any_other_text(text):
    with pytest.raises(ValueError, match="cannot read"):
        parse_spec(text)


def test_dash_and_underscore_are_the_same():
    things = Registry("thing", {"a-b": dict, "c_d": list})
    assert things["a_b"] is things["a-b"] is dict
    assert things["c-d"] is things["c_d"] is list
    assert "a_b" in things
    assert list(things) == ["a-b", "c_d"]
