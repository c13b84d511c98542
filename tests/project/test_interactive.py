"""The interactive pages: what they show is exact, and they work by mouse, keyboard and touch."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "interactive"
NAMES = sorted(path.stem for path in PAGES.glob("*.md"))
WIDTHS = (390, 768, 1200)


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scene(name):
    """What a script hands to the page."""
    text = (PAGES / f"{name}.js").read_text(encoding="utf-8")
    return json.loads(re.fullmatch(r'sceneOf\("\w+",(.*)\);\n', text)[1])


def array(parts, name):
    """An array of a scene, decoded without the script; NaN at breaks."""
    told = parts["arrays"][name]
    kind = {"u8": "u1", "i16": "<i2"}[told["kind"]]
    count = int(np.prod(told["shape"]))
    blob = base64.b64decode(parts["blob"])
    values = np.frombuffer(blob, kind, count, told["offset"]).reshape(told["shape"])
    return np.where(values == -32768, np.nan, values * told["scale"])


@pytest.fixture(scope="module")
def spiral():
    """Means, covariances and weights of the data, and the measured direction and its noise."""
    plane = loaded(ROOT / "examples" / "posterior" / "plane.py")
    means, covariances, weights = (part.numpy() for part in plane.spiral())
    return means, covariances, weights / weights.sum(), plane.A.numpy(), plane.STD


def density(spiral, points, sigma):
    means, covariances, weights = spiral[:3]
    noise = sigma**2 * np.eye(2)
    return sum(
        w * multivariate_normal(m, c + noise).pdf(points)
        for m, c, w in zip(means, covariances, weights, strict=True)
    )


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A function that opens a page alone, its picture and its scripts, without the site."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(ROOT / "sde_score" / "report" / "scene.js", folder)

    def opened(name, width=1200):
        shutil.copy(PAGES / f"{name}.js", folder)
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        drawn = "\n".join(re.findall(r"^<(?:figure|script).*$", text, flags=re.M))
        head = '<meta name="viewport" content="width=device-width"><style>.dark{background:#000}'
        (folder / "page.html").write_text(
            f'<!doctype html><meta charset="utf-8">{head}</style><body>{drawn}</body>',
            encoding="utf-8",
        )
        browser.size(width)
        browser.open((folder / "page.html").as_uri())
        return browser

    yield opened
    browser.media()
    assert browser.errors == []


def pixels(browser, index=0):
    """Colors of a canvas, shape `(height, width, 4)`."""
    width, height, text = browser.run(
        f"(() => {{ const c = document.querySelectorAll('canvas')[{index}];"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let s = ''; for (const v of d) s += String.fromCharCode(v);"
        "return [c.width, c.height, btoa(s)]; })()"
    )
    return np.frombuffer(base64.b64decode(text), "u1").reshape(height, width, 4).astype(int)


def numbers(browser):
    return browser.run(
        "[...document.querySelectorAll('.readouts b')].map(b => Number(b.innerText))"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_page_works_by_mouse_keyboard_and_touch_at_every_width(page, name, tmp_path):
    browser = page(name)
    slider = "input[type=range]:last-of-type"
    labels = "[...document.querySelectorAll('canvas')].map(c => c.getAttribute('aria-label'))"
    value = f"document.querySelector('{slider}').getAttribute('aria-valuetext')"
    last = int(browser.run(f"document.querySelector('{slider}').max"))
    browser.click(slider, 0.01)
    assert browser.run(f"document.querySelector('{slider}').value") == "0"
    first, told = pixels(browser), browser.run(labels)
    browser.press("End")
    assert browser.run(f"document.querySelector('{slider}').value") == str(last)
    changed = (pixels(browser) != first).any(-1).mean()
    assert changed > 0.005, changed
    assert browser.run(labels) != told  # they tell the numbers
    assert all(len(text.split()) > 8 for text in told)
    text = browser.run(value)
    browser.press("ArrowLeft")
    assert browser.run(value) != text
    browser.touch(slider, 0.5)
    middle = int(browser.run(f"document.querySelector('{slider}').value"))
    assert abs(middle - last / 2) <= 1
    for width in WIDTHS:
        browser.size(width)
        assert browser.run("document.documentElement.scrollWidth") <= width
        beyond = (
            "[...document.querySelectorAll('.scene *')].filter(e => {"
            "const b = e.getBoundingClientRect(); return b.right > innerWidth + 1 || b.left < 0;"
            "}).length"
        )
        assert browser.run(beyond) == 0
        browser.picture(tmp_path / f"{name}-{width}.png")
    if browser.run("document.querySelectorAll('select').length"):
        before = pixels(browser, -1 % browser.run("document.querySelectorAll('canvas').length"))
        browser.run("document.querySelector('select').focus()")
        browser.press("ArrowRight")
        after = pixels(browser, -1 % browser.run("document.querySelectorAll('canvas').length"))
        assert name == "samplers" or (before != after).any()


def test_the_picture_is_the_density_at_the_chosen_noise(page, spiral):
    """Pixels of the picture with all but the density hidden, read back as shares of its largest
    value, against the mixture by scipy."""
    browser = page("noise")
    browser.run(
        "document.querySelectorAll('.legend label').forEach(label =>"
        "{ if (label.innerText !== 'density') label.firstChild.click(); })"
    )
    for press, tolerance in (("Home", 0.08), ("End", 0.02)):
        browser.run("document.querySelector('input[type=range]').focus()")
        browser.press(press)
        text = browser.run("document.querySelector('output').innerText")
        sigma = {"Home": 0.05, "End": 2.5}[press]
        assert text == f"σ = {sigma:.2f}"
        red = pixels(browser)[..., 0]
        shares = (255 - red) / (255 - 0x62)
        line = (np.arange(len(red)) + 0.5) / len(red) * 6.4 - 3.2
        points = np.stack(np.meshgrid(line, -line), -1)[::7, ::7]
        exact = density(spiral, points, sigma)
        assert np.abs(shares[::7, ::7] - exact / density_top(spiral, sigma)).max() < tolerance


def density_top(spiral, sigma):
    line = np.linspace(-3.2, 3.2, 400)
    return density(spiral, np.stack(np.meshgrid(line, line), -1), sigma).max()


def test_the_error_of_the_denoiser_is_that_of_the_score(page, spiral):
    """By Tweedie's formula E |x0 - D|^2 = 2 sigma^2 - sigma^4 E |score|^2; the score of the mixture
    by differences of its log density."""
    browser = page("noise")
    sigmas = np.logspace(np.log10(0.05), np.log10(2.5), 20)
    for press, stop in ((None, 8), ("End", 19)):
        if press:
            browser.run("document.querySelector('input[type=range]').focus()")
            browser.press(press)
        sigma = sigmas[stop]
        line = np.linspace(-3 - 4 * sigma, 3 + 4 * sigma, 250)
        p = density(spiral, np.stack(np.meshgrid(line, line), -1), sigma) + 1e-300
        gap = line[1] - line[0]
        information = sum((g**2 * p).sum() * gap**2 for g in np.gradient(np.log(p), gap))
        exact = np.sqrt(2 * sigma**2 - sigma**4 * information)
        assert numbers(browser) == [pytest.approx(exact, abs=0.002)]


def test_motion_waits_for_the_reader_and_dark_pages_are_dark(page):
    browser = page("langevin")
    value = "document.querySelector('input[type=range]').value"
    assert browser.run(value) == "0"
    browser.click("button")
    assert browser.run(f"new Promise(done => setTimeout(() => done({value}), 700))") != "0"
    browser.click("button")
    browser.media(prefers_reduced_motion="reduce")
    browser.run("document.querySelector('input[type=range]').focus()")
    browser.press("Home")
    assert browser.run("document.querySelector('button').innerText") == "Step"
    browser.run("document.querySelector('button').focus()")
    browser.press(" ")
    assert browser.run(value) == "6"
    assert pixels(browser)[2, 2, :3].min() > 240
    browser.run("document.body.classList.add('dark')")
    browser.settle()
    assert pixels(browser)[2, 2, :3].max() < 60


def test_shares_of_chains_are_counted_and_only_annealing_finds_them():
    parts = scene("langevin")
    for name in ("still", "moved"):
        right = (array(parts, name) @ [2.5, 1.2] > 0).mean(1)
        np.testing.assert_allclose(parts["numbers"][name], right, atol=0.007)
    assert parts["numbers"]["still"][-1] == 0
    assert parts["numbers"]["moved"][-1] == pytest.approx(0.8, abs=3 * (0.16 / 160) ** 0.5)


def test_ends_of_the_ode_come_to_those_of_the_flow():
    parts = scene("samplers")
    rings, methods = array(parts, "flow"), parts["controls"][0]["values"]
    for place, name in enumerate(methods):
        errors = parts["numbers"]["rms"][place]
        assert errors[-1] < 0.07, name
        shown = array(parts, f"ode-{place}-5")[-1] - rings
        assert np.sqrt((shown**2).sum(1).mean()) < 2 * errors[-1] + 0.001
    for kind in ("ode", "sde"):
        starts = [array(parts, f"{kind}-{i}-{j}")[0] for i in range(4) for j in range(6)]
        assert max(np.abs(each - starts[0]).max() for each in starts) < 0.01


def test_costs_of_layers_add_up_to_the_bound_and_fall_to_the_truth():
    parts = scene("layers")
    found = parts["numbers"]
    gaps = np.array(found["bound"]) - found["code"]
    for bound, costs in zip(found["bound"], found["cost"], strict=True):
        assert bound == pytest.approx(sum(costs), abs=2e-4)  # the prior costs 1e-4
    assert (np.diff(gaps) < 0).all()
    assert 0 < gaps[-1] < 3


def test_contours_are_of_the_posterior(spiral):
    """Along each the product of the prior and the likelihood is constant, at two shares of the
    largest."""
    a, std = spiral[3:]
    parts = scene("posterior")
    line = np.linspace(-2.5, 2.5, 300)
    square = np.stack(np.meshgrid(line, line), -1)
    for index in (0, 3):
        y = float(parts["controls"][0]["values"][index])

        def posterior(x, y=y):
            return density(spiral, x, 0.0) * np.exp(-0.5 * ((x @ a - y) / std) ** 2)

        drawn = array(parts, f"contours-{index}")
        shares = posterior(drawn[~np.isnan(drawn[:, 0])]) / posterior(square).max()
        near = np.minimum(np.abs(np.log(shares / 0.01)), np.abs(np.log(shares / 0.3)))
        assert near.max() < 0.12
        far = parts["numbers"]["far"][index]
        assert min(far[:2]) < 3 * parts["numbers"]["floor"][index] < max(far)
