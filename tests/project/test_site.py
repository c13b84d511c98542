"""The site: it builds without a warning, every public room has its page, formulas become MathML."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sde_score

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script of docs/ by name."""
    monkeypatch.syspath_prepend(str(DOCS))

    def load(name):
        spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built in a copy of the checkout, and what the build printed."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)  # its place is where the site is built
    for name in ("sde_score", "examples", "tests", "benchmarks", "CONTRIBUTING.md"):
        (folder / name).symlink_to(ROOT / name)
    code = "import build, pathlib; build.ROOT = pathlib.Path(); build.build(pathlib.Path('site'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": f"{DOCS}:{ROOT}", "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site", done.stdout + done.stderr


def test_it_builds_without_a_warning(site):
    """Links and references lead somewhere, and docstrings name their arguments in full."""
    assert "griffe:" not in site[1]
    assert "Warning" not in site[1]


def test_every_link_of_the_site_leads_somewhere(site):
    """Copies of linked scripts included."""
    pages = list(site[0].rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="([^"#:?]+)[#?]?[^":]*"', text):
            assert (page.parent / target).exists() or page.name == "404.html", (page, target)


def test_no_formula_is_left_in_latex(site):
    text = "".join(page.read_text(encoding="utf-8") for page in site[0].rglob("*.html"))
    assert "<math" in text
    assert "arithmatex" not in text
    assert ".. math::" not in text
    assert ":math:" not in text
    formulas = [re.sub(r"<[^>]*>", "", math) for math in re.findall(r"<math.*?</math>", text)]
    assert [formula for formula in formulas if "\\" in formula] == []


def test_every_public_room_has_its_page():
    rooms = {p.parent.name for p in ROOT.glob("sde_score/[a-z]*/__init__.py")} - {"cli"}
    assert {page.stem for page in (DOCS / "api").glob("*.md")} == rooms | {"index"}
    assert all(hasattr(sde_score, room) for room in rooms)


def test_every_page_is_in_the_navigation():
    text = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(re.findall(r'"([^"]+\.md)"', text)) == pages


def test_formulas_of_docstrings_come_between_dollar_signs(script):
    text = script("docstring_math").in_dollars(
        "A map.\n\n.. math:: a = b,\n          c = d\n\nWith :math:`x`.\n\n    .. math:: e\n"
    )
    assert text == "A map.\n\n\n$$\na = b, c = d\n$$\n\n\nWith $x$.\n\n\n    $$\n    e\n    $$\n\n"


def test_formula_becomes_mathml(script):
    page = '<div class="arithmatex">\\[x &lt; 1\\]</div> <span class="arithmatex">\\(y\\)</span>'
    drawn = script("build").with_mathml(page)
    assert 'display="block"' in drawn
    assert 'display="inline"' in drawn
    assert "&lt;" in drawn or "&#x0003C;" in drawn
    assert "\\" not in drawn


def test_nothing_is_loaded_from_elsewhere_and_pictures_are_told_in_words(site):
    pages = [page for page in site[0].rglob("*.html") if "source" not in page.parts]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    loaded = re.findall(r"<(?:script|link|img)\b[^>]*>", text)
    assert [tag for tag in loaded if re.search(r'(?:src|href)="(?:https?:)?//', tag)] == []
    pictures = [tag for tag in loaded if tag.startswith("<img")]
    assert len(pictures) > 30
    assert [tag for tag in pictures if not re.search(r'alt="[^"]{10,}"', tag)] == []


def test_pages_fit_a_phone(site, browser):
    """What is wider scrolls within itself; on a third of the pages, and one of the API."""
    cut = (
        "[...document.querySelectorAll('article *')].filter(e => { if ("
        "!e.textContent.trim() || e.getBoundingClientRect().right < 391) return false;"
        " while ((e = e.parentElement))"
        " if (e.scrollWidth > e.clientWidth && /auto|scroll/.test(getComputedStyle(e).overflowX))"
        " return false; return true; }).map(e => e.outerHTML.slice(0, 80))"
    )
    browser.size(390)
    pages = sorted([*site[0].glob("[!4]*.html"), *site[0].glob("[!a]*/*.html")])[::3]
    for page in [*pages, site[0] / "api/nn.html"]:
        browser.open(page.as_uri())
        assert browser.run("document.documentElement.scrollWidth") <= 390, page
        assert browser.run(cut) == [], page
    assert browser.errors == []


def test_search_works_from_the_folder(site, browser):
    """Without a server, where browsers allow no workers."""
    browser.size(1280)
    browser.open((site[0] / "course" / "sde.html").as_uri())
    waits = (
        "new Promise(done => { const look = () => { const found = [...document.querySelectorAll("
        "'body > div')].flatMap(e => [...(e.shadowRoot?.querySelectorAll('%s') ?? [])]);"
        "found.length ? done(found[0].href ?? '') : setTimeout(look, 100) };"
        "setTimeout(() => done('none'), 20000); look() })"
    )
    browser.click(".md-search__button")
    assert browser.run(waits % "input:focus") != "none"
    browser.ask("Input.insertText", text="Hutchinson")
    assert "utchinson" in browser.run(waits % "a[href*=utchinson]")
    assert browser.errors == []


def test_tables_of_benchmarks_sort_by_their_numbers(site, browser):
    """A click on the head of a column, and once more for the other way round."""
    browser.media()
    browser.size(1280)
    browser.open((site[0] / "benchmarks.html").as_uri())
    table = "document.querySelector('.sortable table')"
    cells = f"[...{table}.tBodies[0].rows].map(row => parseFloat(row.cells[3].textContent))"
    found = browser.run(cells)
    assert found != sorted(found)
    browser.click(".sortable th:nth-child(4) button")
    assert browser.run(cells) == sorted(found)
    browser.click(".sortable th:nth-child(4) button")
    assert browser.run(cells) == sorted(found, reverse=True)
    browser.errors.clear()  # without a server the search of the theme finds no script
