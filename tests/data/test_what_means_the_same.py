"""NumPy's and torch's numbers, arrays and paths serve like Python's; mistakes read a fix."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import pytest
import torch

from sde_score import samplers
from sde_score.data import DataError, from_tensor, load
from sde_score.models import GaussianMixture
from sde_score.samplers import create
from sde_score.scaling import Scaling
from sde_score.sdes import VP

INTEGERS = [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)]
NUMBERS = [np.float64(0.5), np.float32(0.5), np.array(0.5), torch.tensor(0.5)]


@pytest.fixture
def model():
    return GaussianMixture([[0.0, 0.0]], 1.0, VP())


@pytest.fixture
def ring():
    return load("ring(n=50)")


def drawn(model, start=(3, 2), seed=0):
    return create("ddim", steps=2)(model, start, seed=seed, progress=False)


@pytest.mark.parametrize("three", INTEGERS, ids=type)
def test_integers(three, model, ring):
    assert torch.equal(drawn(model, seed=three), drawn(model, seed=3))
    assert torch.equal(drawn(model, (three, 2)), drawn(model))
    assert create("ddim", steps=three) == create("ddim", steps=3)
    assert type(create("ddim", steps=three).steps) is int
    assert len(ring.subset(three, seed=three)) == len(ring.tensor(three)) == 3
    assert len(ring.split(three)[1]) == 3
    assert torch.equal(ring[three], ring[3])
    assert type(Scaling.discrete(three).levels) is int


@pytest.mark.parametrize("half", NUMBERS, ids=type)
def test_numbers(half, ring):
    assert create("ddim", eta=half) == create("ddim", eta=0.5)
    assert type(create("ddim", eta=half).eta) is float
    assert len(ring.split(half)[1]) == 25
    assert Scaling(half, half) == Scaling(0.5, 0.5)


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list, tuple])
def test_several_integers(kind, model, ring):
    several = kind([2, 0, 1])
    assert torch.equal(drawn(model, seed=several), drawn(model, seed=[2, 0, 1]))
    assert torch.equal(drawn(model, kind([3, 2])), drawn(model))
    assert torch.equal(ring[several], ring.raw(torch.tensor([2, 0, 1])))
    assert torch.equal(ring.batch(several).x0, ring.batch(torch.tensor([2, 0, 1])).x0)
    x = torch.randn(3, 2)
    assert from_tensor(x, several).labels.tolist() == [2, 0, 1]


def test_arrays(model, ring):
    x = np.random.default_rng(0).normal(size=(5, 2))
    assert torch.equal(drawn(model, x), drawn(model, torch.from_numpy(x)))
    assert torch.equal(from_tensor(x).raw(), load(x).raw())
    assert torch.equal(from_tensor(x.astype(">f8")).raw(), torch.from_numpy(x))
    scaling = Scaling.standardize(x, per_feature=True)
    assert scaling == Scaling.standardize(torch.from_numpy(x), per_feature=True)
    width = torch.tensor(scaling.width, dtype=torch.float64)
    assert scaling == Scaling(np.array(scaling.center), width)
    back = scaling.from_model(scaling.to_model(x).numpy())
    assert np.allclose(back.numpy(), x, atol=1e-6)


@pytest.mark.parametrize("kind", [str, Path, PurePath])
def test_paths(kind, tmp_path):
    np.save(tmp_path / "a (1).npy", np.random.default_rng(0).normal(size=(5, 2)))
    assert len(load(kind(tmp_path / "a (1).npy"))) == 5


class Holder:
    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        (torch.nn.Linear(2, 2), r"ScoreModel\(network, sde\)"),
        (GaussianMixture, r"GaussianMixture is a class, write GaussianMixture\(\.\.\.\)"),
        ("runs/one", r"load_run\(path\)\.model"),
        (Path("runs/one"), r"load_run\(path\)\.model"),
        (Holder(GaussianMixture([[0.0]], 1.0, VP())), r"give model\.model"),
        (np.zeros(3), "a ndarray"),
        (3, "model is 3"),
        (None, "model is None"),
    ],
)
def test_what_is_no_model_leads_to_one(wrong, fix):
    for use in (
        drawn,
        lambda model: create("ddim").run(model, (2, 2), progress=False),
        lambda model: samplers.sample(model, "ddim", (2,), 3, progress=False),
    ):
        with pytest.raises(TypeError, match=f"model is .*{fix}|{fix}"):
            use(wrong)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: load("missing (1).npy"), r"no file and no data set 'missing \(1\)\.npy'"),
        (lambda: load("a [b](c/d"), r"no file and no data set 'a \[b\]\(c/d'"),
        (lambda: load("miss(ing).csv(delimiter=';')"), "no file and no data set"),
        (lambda: load("ring(n=)"), "cannot read 'ring"),
        (lambda: load(b"a.npy"), "is bytes; accepted: text, a path"),
        (lambda: load([[1.0, 2.0], [3.0, 4.0]]), r"give torch\.tensor\(source\)"),
        (lambda: load(dict), "is the class dict; accepted"),
        (lambda: from_tensor(torch.ones(2, 2) > 0), r"try x\.to\(torch\.uint8\)"),
        (lambda: from_tensor([["a"]]), r"got list: try torch\.tensor\(x\)"),
        (lambda: from_tensor(torch.randn(2, 2), np.array(["a", "b"])), "number the classes"),
        (lambda: from_tensor(torch.randn(2, 2), scaling="discrete"), "scaling='discrete' must be"),
        (lambda: load("ring(n=9)")["a"], "indices='a' must be integers"),
        (lambda: load("ring(n=9)")[1.5], r"indices=1\.5 must be integers"),
        (lambda: Scaling().to_model("x"), "raw='x' must be a tensor"),
        (lambda: Scaling().from_model(None), "x=None must be a tensor"),
        (lambda: Scaling(center="0"), "center='0' must be a number"),
        (lambda: create("ddim", grid="mine.json"), r"write \"file\(path='mine\.json'\)\""),
        (lambda: drawn(None or GaussianMixture([[0.0]], 1.0, VP()), 5), r"\(batch, \*event\)"),
    ],
)
def test_a_mistake_reads_a_fix_that_works(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


@pytest.mark.parametrize(
    ("content", "spec", "said"),
    [
        ("a|b\n1|2\n", "", r"try delimiter='\|'"),
        ("a;b\n1;2\n", "(delimiter=',')", "try delimiter=';'"),
        ("1 2\n3 4\n", "", "try delimiter=' '"),
        ("1\t2\n3\t4\n", "", r"try delimiter='\\t'"),
        ("1,5;2\n3,5;4\n", "(delimiter=';', decimal='.')", "write decimals with a point"),
    ],
)
def test_a_table_with_other_marks_names_them(content, spec, said, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        load(f"{tmp_path}/t.csv{spec}")
