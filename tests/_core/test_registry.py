"""Text at the door, objects inside: names, aliases, own entries, and errors that name what came."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import EntryPoint

import pytest

from sde_score._core import plugins
from sde_score._core.arguments import checked
from sde_score._core.registry import Registry, format_spec, parse_spec
from sde_score.objectives.weightings import Likelihood, Weighting
from sde_score.samplers import PREDICTORS, SAMPLERS, create
from sde_score.samplers.fixed_step.one_step import DDIM


@dataclass(frozen=True)
class Thing:
    size: int = 1
    word: str = "a"

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size={self.size!r} must be at least 1")


@dataclass(frozen=True)
class Needy(Thing):
    path: str = ""

    def __init__(self, path):
        object.__setattr__(self, "path", path.strip())


@pytest.fixture
def things():
    entries = {"thing": Thing, "dpmpp-2m": Thing, "dpm-2m": Thing, "ddim": Thing, "needy": Needy}
    return Registry("gadget", entries, Thing, {"ancestral-one": "thing", "euler": "ddim"})


@pytest.mark.parametrize(
    ("spelling", "listed"),
    [
        ("thing", "thing"),
        ("THING", "thing"),
        ("dpmpp_2m", "dpmpp-2m"),
        ("DPM++ 2M", "dpmpp-2m"),
        ("dpm++2m", "dpmpp-2m"),
        ("Ancestral_One", "ancestral-one"),
        ("Euler", "ddim"),
    ],
)
def test_names_are_found_in_every_spelling(things, spelling, listed):
    assert things.listed(spelling) == things.aliases.get(listed, listed)
    assert spelling in things
    assert isinstance(things.create(f"{spelling}(size=3)"), Thing)


@pytest.mark.parametrize(
    ("wrong", "guess"),
    [("thin", "thing"), ("dddim", "ddim"), ("eulr", "ddim"), ("dpmpp-2n", "dpmpp-2m")],
)
def test_a_misspelling_gets_its_one_guess(things, wrong, guess):
    with pytest.raises(ValueError, match=f"unknown gadget '{wrong}'; did you mean '{guess}'"):
        things.create(wrong)


@pytest.mark.parametrize("wrong", ["dpmpp-4m", "dpm-3m", "plms", "x", ""])
def test_another_method_is_no_misspelling(things, wrong):
    with pytest.raises(ValueError, match=r"unknown gadget '.*'; accepted: thing, dpmpp-2m"):
        things.create(wrong)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("needy", r"gadget 'needy' needs path: write needy\(path=\.\.\.\)"),
        ("needy(path=3)", r"gadget 'needy' does not accept {'path': 3}"),
        ("thing(size='a')", r"gadget 'thing' does not accept {'size': 'a'}"),
        ("thing(size=0)", "size=0 must be at least 1"),
        ("thing(sise=1)", "gadget 'thing' does not take sise; accepted: size, word"),
        ("thing(1)", r"cannot read 'thing\(1\)'"),
        ("thing(size=__import__('os'))", "cannot read"),
    ],
)
def test_wrong_arguments_are_one_named_line(things, spec, says):
    with pytest.raises(ValueError, match=says) as caught:
        things.create(spec)
    assert "\n" not in str(caught.value)


def test_resolve_takes_text_and_objects_alike(things):
    mine = Thing(size=5)
    assert things.resolve(mine) is mine
    assert things.resolve("thing(size=5)") == mine


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (5, "5 is no gadget: accepted are text such as 'thing' and an object of class Thing"),
        (None, "None is no gadget"),
        (Thing, r"Thing is a class, write Thing\(\)"),
    ],
)
def test_resolve_refuses_what_is_neither(things, value, says):
    with pytest.raises(TypeError, match=says):
        things.resolve(value)


def test_a_registered_thing_is_listed_and_made_like_ours(things):
    class Mine(Thing):
        pass

    assert things.register("mine", Mine) is Mine
    assert things.names()[-1] == "mine"
    assert isinstance(things.create("Mine(size=2)"), Mine)
    things.register("mine", Mine)  # as a script that is run twice does
    with pytest.raises(ValueError, match="'MINE' exists already"):
        things.register("MINE", Thing)
    with pytest.raises(ValueError, match="'euler' exists already"):
        things.register("euler", Mine)
    with pytest.raises(ValueError, match="letters, digits"):
        things.register("my(thing)", Mine)
    with pytest.raises(TypeError, match="must be a class or a function"):
        things.register("other", Thing())


def test_a_name_of_another_room_is_made_and_not_listed(things):
    """Its module is imported when the name is asked for, in any spelling."""
    things.find_in("decimal", far_away="Decimal")
    assert "far_away" not in list(things)
    assert things["Far-Away"]("1.5") == Decimal("1.5")
    assert things.register("far_away", Decimal) is Decimal
    assert "far_away" in list(things)
    things.find_in("decimal", taken="Decimal")
    with pytest.raises(ValueError, match="exists already"):
        things.register("taken", Thing)


def test_text_of_an_object_makes_it_again(things):
    assert things.create(things.text_of(Thing(size=7))) == Thing(size=7)
    assert things.text_of(Needy("x")) is None


def test_text_of_an_object_has_the_name_that_is_listed(things):
    class Mine(Thing):
        pass

    things.register("a-thing-of-mine", Mine)
    assert things.text_of(Mine(size=2)) == "a-thing-of-mine(size=2, word='a')"
    assert things.text_of(Thing(word="b")) == "thing(size=1, word='b')"


def test_specs_are_read_and_written():
    name, arguments = parse_spec("pc(steps=5, corrector='langevin(snr=0.1)')")
    assert (name, arguments) == ("pc", {"steps": 5, "corrector": "langevin(snr=0.1)"})
    assert parse_spec(format_spec(name, arguments)) == (name, arguments)


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """Installs a module under the entry-point group, as a package would."""

    def install(source):
        (tmp_path / "a_plugin.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "a_plugin", raising=False)
        point = EntryPoint("a", "a_plugin", plugins.GROUP)
        monkeypatch.setattr(plugins, "entry_points", lambda group: [point] * (group == "sde_score"))
        monkeypatch.setattr(plugins, "_loaded", False)

    return install


def test_an_installed_package_adds_its_things_when_they_are_asked_for(plugin, register_for_test):
    from sde_score import sdes

    register_for_test(sdes.SDES, "unplugged", sdes.VP)
    plugin("from sde_score import sdes\nsdes.SDES.register('plugged', sdes.VP)")
    assert "a_plugin" not in sys.modules
    assert sdes.create("plugged(beta_max=9.0)") == sdes.VP(beta_max=9.0)
    assert "plugged" in sdes.available()


def test_a_broken_package_is_named_and_left_out(plugin, things):
    plugin("raise RuntimeError('no')")
    with pytest.warns(UserWarning, match="entry point a = a_plugin .* RuntimeError: no"):
        assert "nothing" not in things
    assert "thing" in things


def test_a_refusal_names_the_argument_it_is_told(things):
    for wrong in (5, None, True, object(), Thing):
        with pytest.raises(TypeError, match=r"^part=.* is no gadget: accepted are text such as"):
            things.resolve(wrong, name="part")
    with pytest.raises(ValueError, match=r"^part='nothing': unknown gadget 'nothing'"):
        things.resolve("nothing", name="part")
    with pytest.raises(ValueError, match=r"^size=0 must be at least 1"):
        things.resolve("thing(size=0)", name="size")
    assert things.resolve("thing", name="part") == Thing()


def test_a_class_is_no_function_of_a_kind():
    functions = Registry("weight", {"half": lambda: abs})
    assert functions.resolve(abs) is abs
    with pytest.raises(TypeError, match=r"Thing is a class, write Thing\(\)"):
        functions.resolve(Thing)


@pytest.mark.parametrize(
    "error", [OverflowError, ZeroDivisionError, KeyError, IndexError, RecursionError, TypeError]
)
def test_whatever_python_raises_by_itself_names_thing_and_arguments(error):
    def fails(size=1):
        raise error("deep inside")

    with pytest.raises(ValueError, match=r"gadget 'fails' does not accept {'size': 3}: .*deep"):
        Registry("gadget", {"fails": fails}).create("fails(size=3)")


def test_what_is_registered_is_listed_by_registries_that_share_its_kind():
    class Base: ...

    class Stepper(Base): ...

    whole, part = Registry("thing", base=Base), Registry("part", base=Base)
    whole.register("early", Stepper)
    whole.share(part, Stepper)
    whole.register("mine", Stepper)
    whole.register("other", Base)
    whole.register("made", lambda: Stepper())
    assert part.names() == ["mine"]


def test_a_class_is_no_object_of_a_protocol_whose_methods_it_has():
    weightings = Registry("weighting", {"variance": Likelihood}, base=Weighting)
    with pytest.raises(TypeError, match=r"Likelihood is a class, write Likelihood\(\)"):
        weightings.resolve(Likelihood, name="weighting")

    @checked
    def weighted(weighting: Weighting | None = None):
        return weighting

    assert weighted(Likelihood()) == Likelihood()
    with pytest.raises(TypeError, match=r"weighting=.*Likelihood is a class, write Likelihood\(\)"):
        weighted(Likelihood)


def test_a_predictor_of_a_users_own_is_listed_among_predictors(register_for_test):
    class Mine(DDIM): ...

    register_for_test(SAMPLERS, "my-steps", Mine)
    assert "my-steps" in PREDICTORS.names()
    assert isinstance(create("pc(predictor='my-steps')").predictor, str)
