"""Build of the site: the tables from the registries, then every page into site/.

    python docs/build.py

Formulas become MathML, which browsers draw without a script, and scripts that pages link to come
along, so that the site works offline, from its folder too.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import tables
from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
_FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', flags=re.S)
_SHIM = "https://unpkg.com/iframe-worker/shim"  # what Zensical would load: offline.js does the same
_SOURCE = re.compile(r'href="(?:\.\./)+((?:examples|benchmarks|tests|[A-Z])[^"#]*)"')


def with_mathml(text: str) -> str:
    """A page of the site whose formulas, in LaTeX, are MathML."""

    def drawn(match: re.Match[str]) -> str:
        tag, formula = match[1], html.unescape(match[2])
        display = "block" if tag == "div" else "inline"
        scrolls = ' style="overflow-x: auto"' if tag == "div" else ""  # wide ones, on a phone
        return f'<{tag} class="formula"{scrolls}>{convert(formula, display=display)}</{tag}>'

    return _FORMULA.sub(drawn, text)


def with_sources(text: str, page: Path, site: Path) -> str:
    """A page whose links to files beside docs/ lead to copies of them in source/."""

    def kept(match: re.Match[str]) -> str:
        found = ROOT / match[1]
        if not found.exists():
            return match[0]
        copy = site / "source" / match[1]
        copy.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            shutil.copytree(found, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__*"))
        else:
            shutil.copyfile(found, copy)
        return f'href="{os.path.relpath(copy, page.parent)}"'

    return _SOURCE.sub(kept, text)


def build(site: Path) -> None:
    """Write docs/reference.md and the site; fails where a link or reference leads nowhere."""
    tables.PAGE.write_text(tables.page(), encoding="utf-8")
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT, check=True)
    for script in site.rglob("*.py"):
        script.unlink()
    for script, folder in (("scene.js", site / "interactive"), ("sort.js", site)):
        shutil.copyfile(ROOT / "sde_score" / "report" / script, folder / script)
    for page in site.rglob("*.html"):
        text = with_mathml(page.read_text(encoding="utf-8"))
        text = text.replace(_SHIM, os.path.relpath(site / "offline.js", page.parent))
        page.write_text(with_sources(text, page, site), encoding="utf-8")


if __name__ == "__main__":
    build(ROOT / "site")
