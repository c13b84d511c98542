"""BibTeX of what a run used: every paper behind a name has its entry, and a run cites its own."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
import torch

import sde_score
from sde_score.report.bibtex import CITED, _addresses_in, _entries, addresses
from sde_score.samplers import METHODS

KEYS = re.compile(r"^@\w+\{(\w+),$", flags=re.M)


def keys(text):
    return KEYS.findall(text)


def test_every_paper_behind_a_name_has_an_entry():
    named = {url for registry in CITED for _, c in registry.items() for url in addresses(c)}
    named |= {url for method in METHODS.values() for url in _addresses_in(method.paper)}
    assert len(named) > 60
    assert named - _entries().keys() == set()


def test_entries_are_whole_and_have_keys_of_their_own():
    text = files("sde_score.report").joinpath("references.bib").read_text(encoding="utf-8")
    entries = text.strip().split("\n\n")
    assert len(set(keys(text))) == len(entries)
    for entry in entries:
        assert re.findall(r"^  (\w+) = ", entry, flags=re.M) == ["title", "author", "year", "url"]
        assert entry.count("{") == entry.count("}")


def test_nothing_gives_the_software():
    assert keys(sde_score.citation()) == ["sde_score"]
    assert f"version = {{{sde_score.__version__}}}" in sde_score.citation()


def test_names_objects_and_arguments_in_their_order():
    found = keys(sde_score.citation("denoising(weighting='min_snr')", sde_score.EDM(), "deis"))
    assert found[:2] == ["sde_score", "vincent2011connection"]
    assert {"hang2023efficient", "karras2022elucidating", "zhang2022fast"} <= set(found)
    assert found.index("hang2023efficient") < found.index("karras2022elucidating")
    assert len(found) == len(set(found))


def test_an_alias_cites_what_it_leads_to():
    assert sde_score.citation("euler") == sde_score.citation("ddim")


def test_a_run_cites_what_it_was_trained_with(tmp_path):
    """That is its configuration, resolved: defaults are cited too."""
    config = sde_score.TrainConfig(
        data="ring(n=64)", backbone="mlp(width=8, depth=1)", steps=1, batch_size=4, device="cpu"
    )
    run = sde_score.train(config, tmp_path / "run", progress=False)
    found = keys(sde_score.citation(run))
    assert {"song2021score", "vincent2011connection", "kingma2015adam"} <= set(found)
    assert "hang2023efficient" not in found


@pytest.mark.parametrize(
    ("thing", "error", "message"),
    [
        ("huen", ValueError, r"'huen' names nothing that is cited"),
        (torch.zeros(1), TypeError, r"things="),
    ],
)
def test_other_things_are_refused(thing, error, message):
    with pytest.raises(error, match=message):
        sde_score.citation(thing)
