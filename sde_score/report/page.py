"""A self-contained HTML page: text, tables and pictures in one file, nothing loaded from
elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sde_score._core.files import replace_file
from sde_score.report.tables import Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p { max-width: 46rem; } p.lead { color: #52606d; margin-top: 0; }
img { max-width: 100%; height: auto; display: block; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid #e4e7eb; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
caption { text-align: left; color: #52606d; padding-bottom: .3rem; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page: a title, a paragraph, perhaps a table and a picture.

    Args:
        title: of the section.
        text: one paragraph.
        table: below the text.
        picture: bytes of a PNG file, below the table.
        alt: the picture in words, for those who cannot see it.
    """

    title: str
    text: str = ""
    table: Table | None = None
    picture: bytes | None = None
    alt: str = ""


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page as HTML; all text is escaped."""
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="lead">{html.escape(lead)}</p>\n'
        f"{body}\n</body>\n</html>\n"
    )


def save(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, render(title, lead, sections).encode())


def insert(page: str, section: Section) -> str:
    """A rendered page with a section at its end, or in the place of the one of the same title."""
    new, title = _section(section), f"<section>\n<h2>{html.escape(section.title)}</h2>"
    start = page.find(title)
    if start < 0:
        before, body, after = page.rpartition("</body>")
        return f"{before}{new}\n{body}{after}"
    end = page.index("</section>", start) + len("</section>")
    return page[:start] + new + page[end:]


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.table is not None:
        parts.append(_table(section.table))
    if section.picture is not None:
        data = base64.b64encode(section.picture).decode()
        alt = html.escape(section.alt, quote=True)
        parts.append(f'<img alt="{alt}" src="data:image/png;base64,{data}">')
    return f"<section>\n{chr(10).join(parts)}\n</section>"


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{inner}</tr>"

    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    lines = "\n".join(row(cells, "td") for cells in table.rows)
    body = f"<thead>{row(table.header, 'th')}</thead>\n<tbody>{lines}</tbody>"
    return f'<div class="table"><table>{caption}{body}</table></div>'
