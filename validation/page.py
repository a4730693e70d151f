"""A report as a page: HTML in one file that needs nothing else, or Markdown with its figures beside it."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path

from ..hardware.errors import InputError
from .blocks import Block, Picture, Points, Section, Table
from .tables import shown

TITLE = "commlens: predictions beside published results"
DPI = 140
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ccc;
  padding-top: 1rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
nav a { display: inline-block; margin: 0 .9rem .3rem 0; }
dl { margin: 0; } dt { font-weight: 600; overflow-wrap: anywhere; } dd { margin: 0 0 .7rem 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem .2rem 0; text-align: left; vertical-align: top; } th { border-bottom: 1px solid #888; }
td { border-bottom: 1px solid #eee; } .number { text-align: right; white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: .5rem; }
.figures img { width: 100%; max-width: 30rem; height: auto; }
@media print { body { max-width: none; font-size: 10pt; padding: 0; } nav { display: none; }
  .wide { overflow: visible; } table { font-size: 7.5pt; } thead { display: table-header-group; }
  tr, dt, .figures img { break-inside: avoid; } dt { break-after: avoid; } h2, h3 { break-after: avoid; }
  .figures { grid-template-columns: repeat(3, 1fr); } }
"""


def html(sections: Sequence[Section]) -> str:
    """One self-contained page, readable on a phone and in print.

    Parameters
    ----------
    sections : sequence of Section
    """
    shown_sections = [section for section in sections if section.blocks]
    links = "".join(f'<a href="#s{i}">{escape(section.title)}</a>' for i, section in enumerate(shown_sections))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(TITLE)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(TITLE)}</h1><nav>{links}</nav>",
    ]
    for number, section in enumerate(shown_sections):
        parts.append(f'<section id="s{number}"><h2>{escape(section.title)}</h2>')
        for pictures, blocks in _runs(section.blocks):
            inside = "\n".join(_html(block) for block in blocks)
            parts.append(f'<div class="figures">{inside}</div>' if pictures else inside)
        parts.append("</section>")
    return "\n".join([*parts, "</body></html>", ""])


def markdown(sections: Sequence[Section], picture: Callable[[Picture], str]) -> str:
    """The same as Markdown.

    Parameters
    ----------
    sections : sequence of Section
    picture : callable
        Stores a figure and says where.
    """
    parts = [f"# {TITLE}"]
    for section in sections:
        if section.blocks:
            parts.append(f"## {section.title}")
            parts += [_markdown(block, picture) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def check_writable(option: str, path: Path | None) -> None:
    """Refuse a path that cannot be written to, before minutes are spent on what is to be written there.

    Parameters
    ----------
    option : str
        That named it.
    path : Path or None

    Raises
    ------
    InputError
        One line.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{option}: {path} is a folder (legal: a file in a folder that is there)")
    if not path.parent.is_dir():
        raise InputError(f"{option}: no folder {path.parent} (legal: a file in a folder that is there)")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{option}: cannot write {path}: permission denied (legal: a file that can be written)")


def write_html(path: Path, sections: Sequence[Section]) -> None:
    """Write the page; OSError where that cannot be."""
    path.write_text(html(sections), encoding="utf-8")


def write_markdown(path: Path, sections: Sequence[Section]) -> None:
    """Write the text and its figures, in files named after it; OSError where that cannot be."""

    def stored(picture: Picture) -> str:
        file = path.with_name(f"{path.stem}-{picture.name}.png")
        file.write_bytes(png(picture))
        return file.name

    path.write_text(markdown(sections, stored), encoding="utf-8")


@cache
def png(picture: Picture) -> bytes:
    """A figure, drawn; the same bytes every time."""
    file = io.BytesIO()
    picture.draw().savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _runs(blocks: Sequence[Block]) -> Iterable[tuple[bool, list[Block]]]:
    """Blocks in order, pictures in a row together."""
    from itertools import groupby

    return ((pictures, list(run)) for pictures, run in groupby(blocks, lambda block: isinstance(block, Picture)))


def _html(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    if isinstance(block, Picture):
        return f'<img alt="{escape(block.alt)}" src="data:image/png;base64,{base64.b64encode(png(block)).decode()}">'
    if isinstance(block, Points):
        items = "".join(f"<dt>{escape(head)}</dt><dd>{escape(said)}</dd>" for head, said in block.items)
        return f"<h3>{escape(block.title)}</h3><dl>{items}</dl>"
    return f'<h3>{escape(block.title)}</h3><div class="wide">{_html_table(block)}</div>'


def _html_table(table: Table) -> str:
    cells = shown(table.rows)
    marks = [' class="number"' if number else "" for number in cells.numeric]

    def row(values: Sequence[str], tag: str) -> str:
        inside = "".join(f"<{tag}{m}>{escape(v)}</{tag}>" for m, v in zip(marks, values, strict=True))
        return f"<tr>{inside}</tr>"

    rows = "\n".join(row(values, "td") for values in cells.rows)
    return f"<table><thead>{row(cells.names, 'th')}</thead><tbody>{rows}</tbody></table>"


def _markdown(block: Block, picture: Callable[[Picture], str]) -> str:
    if isinstance(block, str):
        return _inline(block)
    if isinstance(block, Picture):
        return f"![{_inline(block.alt)}](<{picture(block)}>)"
    if isinstance(block, Points):
        return "\n".join([f"**{block.title}**", "", *(f"- {_inline(h)}: {_inline(said)}" for h, said in block.items)])
    cells = shown(block.rows)
    lines = [[_inline(value) for value in values] for values in (cells.names, *cells.rows)]
    lines.insert(1, ["--:" if number else ":--" for number in cells.numeric])
    return "\n".join([f"**{block.title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _inline(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for mark in ("\\", "|", "*", "_", "<", "`", "["):
        text = text.replace(mark, f"\\{mark}")
    return text
