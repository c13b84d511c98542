"""What several rooms test with: reference arrays and one of each SDE."""

from __future__ import annotations

import gc
import importlib.util
import json
from pathlib import Path

import pytest

from sde_score import sdes

TESTS = Path(__file__).parent

# What ships with the repository, then a larger collection beside a checkout.
REFERENCES = [
    Path(__file__).parent / "reference",
    Path(__file__).resolve().parents[2] / "shared" / "reference",
]

# Parameters that tell the formulas apart; an SDE that is added is tested with its defaults.
TUNED = {
    "vp": {"beta_min": 0.4, "beta_max": 9.0},
    "subvp": {"beta_min": 0.4, "beta_max": 9.0},
    "ve": {"sigma_min": 0.05, "sigma_max": 9.0},
    "edm": {"sigma_min": 0.05, "sigma_max": 9.0},
}
SDES = [sdes.create(name, **TUNED.get(name, {})) for name in sdes.SDES if name != "chain"]


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    """`paired(argument, values)`: each value on some of the SDEs, its neighbors on the others.

    Whatever goes wrong with a value or with an SDE shows; only what is wrong with one value on one
    SDE alone may be missed. `every` says which share of the pairs is tested.
    """
    for marker in metafunc.definition.iter_markers("paired"):
        argument, values = marker.args
        every = marker.kwargs.get("every", 2)
        cases = [
            pytest.param(sde, value, id=f"{type(sde).__name__}-{value}")
            for place, value in enumerate(values)
            for turn, sde in enumerate(SDES)
            if (place + turn) % every == 0
        ]
        metafunc.definition.add_marker(pytest.mark.parametrize(("sde", argument), cases))


def pytest_collection_modifyitems(items):
    """Mark as slow all but the first case of each test, and what tests/slow.txt lists."""
    begun = set((TESTS / "slow.txt").read_text(encoding="utf-8").split())
    for item in items:
        function = getattr(item, "originalname", item.name)
        test = f"{item.path}::{function}"
        if function in begun or test in begun:
            item.add_marker(pytest.mark.slow)
        begun.add(test)


@pytest.fixture(scope="session")
def reference():
    """`name -> (arrays, description)` of a reference file; skips where it is absent."""
    from safetensors.torch import load_file

    def load(name):
        for folder in REFERENCES:
            if (folder / f"{name}.safetensors").exists():
                text = (folder / f"{name}.json").read_text(encoding="utf-8")
                return load_file(folder / f"{name}.safetensors"), json.loads(text)
        pytest.skip(f"{name} is not in {' or '.join(map(str, REFERENCES))}")

    return load


@pytest.fixture(params=SDES, ids=lambda sde: type(sde).__name__)
def sde(request):
    """Each SDE, with parameters that tell its formulas apart."""
    return request.param


@pytest.fixture
def close():
    """Agreement to the tolerance of the reference files."""
    import torch

    def check(got, want, rtol=1e-9, atol=1e-11):
        torch.testing.assert_close(got, want, rtol=rtol, atol=atol)

    return check


@pytest.fixture(scope="session")
def stored():
    """A source of noise that hands out stored draws in turn."""

    def source(draws):
        left = iter(draws)
        return lambda: next(left)

    return source


@pytest.fixture
def fresh_registries(monkeypatch):
    """What a test registers anywhere is gone after it."""
    import sde_score
    from sde_score._core.registry import Registry

    for room in dir(sde_score):  # rooms are loaded when they are first named
        getattr(sde_score, room)
    # by the type itself: a proxy, asked for its class, asks what it stands for, which may be gone
    for registry in [thing for thing in gc.get_objects() if issubclass(type(thing), Registry)]:
        for table in ("_entries", "_listed"):
            monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


@pytest.fixture
def register_for_test(monkeypatch):
    """`(registry, name, constructor)` registers a thing that is gone after the test."""

    def register(registry, name, constructor):
        for each in (registry, *(other for other, _ in registry._shared)):
            for table in ("_entries", "_listed"):
                monkeypatch.setattr(each, table, dict(getattr(each, table)))
        return registry.register(name, constructor)

    return register


@pytest.fixture
def bars(monkeypatch):
    """Every progress bar made, with what it was told."""
    made = []

    class Bar:
        def __init__(self, **given) -> None:
            self.given, self.count = given, 0
            made.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, by=1):
            self.count += by

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    return made


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests of pages."""
    spec = importlib.util.spec_from_file_location("chromium", TESTS / "chromium.py")
    chromium = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chromium)
    if chromium.NAME is None:
        pytest.skip("Chromium is not installed")
    found = chromium.Chromium()
    yield found
    found.close()
