"""The page of a run in a browser: it fits, sorts, enlarges, moves, darkens and prints."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from PIL import Image

from sde_score.report.look import Look
from sde_score.training import load_run


@pytest.fixture
def page(made, browser):
    """The page in a browser."""
    browser.media()
    browser.size(1200)
    browser.open(made[0].as_uri())
    yield browser
    browser.media()
    assert browser.errors == []


def cells(browser, column):
    rows = "[...document.querySelectorAll('#one-model-many-samplers tbody tr')]"
    return browser.run(f"{rows}.map(row => row.cells[{column}].innerText)")


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_nothing_is_cut_at_any_width(page, width, tmp_path):
    page.size(width)
    assert page.run("document.documentElement.scrollWidth") <= width
    cut = (
        "[...document.querySelectorAll('td, th, img, p, pre, canvas, button, .table')].filter(e =>"
        "e.getBoundingClientRect().right > innerWidth || e.scrollWidth > e.clientWidth + 1 &&"
        "getComputedStyle(e).display !== 'inline' && e.clientWidth).map(e => e.outerHTML)"
    )
    assert page.run(cut) == []
    shot = tmp_path / f"report-{width}.png"
    page.picture(shot)
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    # The training curve is the one thing in its color: the pictures were decoded and laid out.
    assert (np.abs(pixels - np.array([0xC2, 0x41, 0x0C])).sum(2) < 30).sum() > 100
    named = page.run("getComputedStyle(document.querySelector('td'), '::before').content")
    assert (named == '"sampler"') == (width == 390)


def test_a_table_sorts_by_its_numbers_and_keeps_the_floor_last(page, made):
    page.run("document.querySelectorAll('#one-model-many-samplers th button')[1].focus()")
    costs = {row.sampler: str(row.nfe) for row in made[1].rows}
    up = sorted(costs, key=lambda name: int(costs[name]))
    for order in (up, up[::-1]):
        page.press(" ")
        assert cells(page, 0) == [*order, "noise floor: real data"]
    floors = made[1].floors
    beyond = [
        row.sampler
        for row in made[1].rows
        if any(d.value > floor.high for d, floor in zip(row.distances, floors, strict=True))
    ]
    marked = "[...document.querySelectorAll('tr.beyond')].map(row => row.cells[0].innerText)"
    assert set(page.run(marked)) == set(beyond) != set()


def test_the_slider_ends_at_the_samples(page, made):
    """The last frame is the sheet of the first sampler's samples, the first one is not."""
    sheet = Look.of(load_run(made[0].parent)).sheet(made[1].rows[0].samples[:16], 4).numpy()
    likeness = []
    for key in ("Home", "End"):
        page.run("document.querySelector('#scene-on-the-way input').focus()")
        page.press(key)
        text = page.run(
            "(() => { const c = document.querySelector('canvas');"
            "return c.toDataURL().split(',')[1]; })()"
        )
        (made[0].parent / "canvas.png").write_bytes(base64.b64decode(text))
        shown = Image.open(made[0].parent / "canvas.png").convert("L")
        exact = Image.fromarray(sheet).convert("L").resize(shown.size)
        pair = [np.asarray(each).ravel().astype(float) for each in (shown, exact)]
        likeness.append(np.corrcoef(*pair)[0, 1])
    assert likeness[0] + 0.02 < likeness[1] > 0.98


def test_a_picture_enlarges_and_the_page_darkens_and_prints(page):
    page.click("summary")
    page.click(".gallery .large")
    assert page.run("document.querySelector('dialog').open")
    assert page.run("document.querySelector('dialog img').src") == page.run(
        "document.querySelector('.gallery img').src"
    )
    assert page.run("document.querySelector('dialog p').innerText") == "data, 0"
    page.click("dialog")
    assert not page.run("document.querySelector('dialog').open")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.run(paper) == "rgb(255, 255, 255)"
    page.click("#shade")
    assert page.run(paper) == "rgb(22, 27, 34)"
    page.ask("Emulation.setEmulatedMedia", media="print")
    assert page.run(paper) == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    page.ask("Emulation.setEmulatedMedia", media="")
    page.media(prefers_color_scheme="dark")
    page.open(page.run("location.href"))
    assert page.run(paper) == "rgb(22, 27, 34)"


def test_every_link_of_the_navigation_leads_to_its_section(page, made):
    titles = page.run("[...document.querySelectorAll('nav a')].map(a => a.innerText)")
    found = page.run(
        "[...document.querySelectorAll('nav a')].map(a =>"
        "document.querySelector(a.hash).querySelector('h2').innerText)"
    )
    assert found == titles
    assert titles[-1] == "Repeat"
    record = json.loads((made[0].parent / "evaluation.json").read_text())
    assert [row["nfe"] for row in record["rows"]] == [row.nfe for row in made[1].rows]
