"""A self-contained HTML page: text, tables and pictures in one file, nothing loaded from
elsewhere."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sde_score._core.files import replace_file
from sde_score.report.scene import SCRIPT, Scene
from sde_score.report.tables import Table

_HERE = Path(__file__).parent
_SECTION = re.compile(r'<section id="([^"]*)">\n<h2>(.*?)</h2>.*?</section>', flags=re.S)
_LAST = '<section id="repeat">'  # stays at the end
_FEW = 3  # rows from which on a table can be sorted


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side under a heading, which enlarge where they are clicked.

    Args:
        title: of the pictures.
        pictures: bytes of PNG files.
        names: one for each, below it.
    """

    title: str
    pictures: Sequence[bytes]
    names: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of a page: a title, a paragraph, perhaps a table and pictures.

    Args:
        title: of the section.
        text: one paragraph.
        table: below the text.
        picture: bytes of a PNG file, below the table.
        alt: the picture in words, for those who cannot see it.
        galleries: below the picture, folded.
        scene: a picture with sliders.
        code: commands, at the end.
        note: what the section holds for, such as the weights that were measured.
    """

    title: str
    text: str = ""
    table: Table | None = None
    picture: bytes | None = None
    alt: str = ""
    galleries: Sequence[Gallery] = ()
    scene: Scene | None = None
    code: str = ""
    note: str = ""


def render(title: str, lead: str, sections: Sequence[Section], kept: str = "") -> str:
    """The page as HTML; all text is escaped.

    Args:
        title: of the page.
        lead: a sentence below it.
        sections: in their order.
        kept: an earlier page, whose sections of other titles stay where they are.
    """
    found = dict(_sections(kept)) | {each.title: _section(each) for each in sections}
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_text('page.css')}</style>\n</head>\n"
        f'<body>\n<h1>{html.escape(title)}</h1>\n<p class="lead">{html.escape(lead)}</p>\n'
    )
    return head + _body(found.values())


def save(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page, in one step; sections of a page that is there stay if these have other
    titles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    replace_file(path, render(title, lead, sections, kept).encode())


def insert(page: str, section: Section) -> str:
    """A rendered page with a section at its end, or in the place of the one of the same title."""
    found = dict(_sections(page)) | {section.title: _section(section)}
    return page[: page.index("<nav>")] + _body(found.values())


def _sections(page: str) -> list[tuple[str, str]]:
    """Titles and texts of the sections of a rendered page; none of a page of another kind."""
    return [(html.unescape(found[2]), found[0]) for found in _SECTION.finditer(page)]


def _body(sections: Iterable[str]) -> str:
    """The page from its navigation on."""
    texts = sorted(sections, key=lambda text: text.startswith(_LAST))
    places = [found for text in texts if (found := _SECTION.match(text))]
    links = "".join(f'<a href="#{found[1]}">{found[2]}</a>\n' for found in places)
    scripts = [SCRIPT.read_text(encoding="utf-8")] if "sceneOf(" in "".join(texts) else []
    drawing = "".join(f"<script>{text}</script>\n" for text in scripts)
    return (
        f'<nav>\n{links}<button type="button" id="shade">dark / light</button>\n</nav>\n'
        f"{drawing}<main>\n{chr(10).join(texts)}\n</main>\n"
        '<dialog id="large"><img alt=""><p></p></dialog>\n'
        f"<script>{_text('sort.js')}</script>\n<script>{_text('page.js')}</script>\n</body>\n</html>\n"
    )


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _section(section: Section) -> str:
    name = re.sub(r"\W+", "-", section.title.lower()).strip("-")
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.note:
        parts.append(f'<p class="note">{html.escape(section.note)}</p>')
    if section.table is not None:
        parts.append(_table(section.table))
    if section.picture is not None:
        parts.append(_picture(section.picture, section.alt))
    if section.galleries:
        galleries = "\n".join(map(_gallery, section.galleries))
        parts.append(f"<details><summary>One by one</summary>\n{galleries}\n</details>")
    if section.scene is not None:
        figure = f'<figure id="scene-{name}" class="scene"></figure>'
        parts.append(f"{figure}\n<script>{section.scene.script(f'scene-{name}')}</script>")
    if section.code:
        parts.append(f"<pre>{html.escape(section.code)}</pre>")
    return f'<section id="{name}">\n{chr(10).join(parts)}\n</section>'


def _picture(content: bytes, alt: str) -> str:
    """A picture in a button that enlarges it."""
    data = base64.b64encode(content).decode()
    image = f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'
    return f'<button type="button" class="large">{image}</button>'


def _gallery(gallery: Gallery) -> str:
    figures = "\n".join(
        f"<figure>{_picture(content, f'{gallery.title}, {name}')}"
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for content, name in zip(gallery.pictures, gallery.names, strict=True)
    )
    return f'<h3>{html.escape(gallery.title)}</h3>\n<div class="gallery">{figures}</div>'


def _table(table: Table) -> str:
    names = [html.escape(name, quote=True) for name in table.header]
    header = "".join(f'<th scope="col">{name}</th>' for name in names)

    def row(cells: Sequence[str], kind: str) -> str:
        inner = "".join(
            f'<td data-name="{name}">{html.escape(cell)}</td>'
            for name, cell in zip(names, cells, strict=True)
        )
        return f'<tr class="{kind}">{inner}</tr>' if kind else f"<tr>{inner}</tr>"

    beyond = " ▲: beyond the noise floor." if "beyond" in table.kinds.values() else ""
    told = html.escape(table.caption + beyond)
    caption = f"<caption>{told}</caption>" if told else ""
    kinds = (table.kinds.get(index, "") for index in range(len(table.rows)))
    lines = "\n".join(map(row, table.rows, kinds))
    body = f"<thead><tr>{header}</tr></thead>\n<tbody>{lines}</tbody>"
    kind = "table sortable" if len(table.rows) >= _FEW else "table"
    return f'<div class="{kind}"><table>{caption}{body}</table></div>'
