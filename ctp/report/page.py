"""A page that tells of runs: tables, what differs from the paper, curves and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 84rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { margin-top: 3rem; border-bottom: 2px solid #e5e7eb; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #e5e7eb;
  vertical-align: top; }
th { vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; } tr.ours td.number { font-weight: 600; }
.faint { color: #6b7280; } td.faint { min-width: 16rem; overflow-wrap: anywhere; }
img { max-width: 100%; } figure { margin: 1.5rem 0; } figcaption { color: #6b7280; }
"""
SOURCES = (
    "Published numbers: Wang et al., Unsupervised Visual Representation Learning by Tracking "
    "Patches in Video, CVPR 2021, by table; Tables 6 to 10 of its appendix are Tables 1 to 5 of "
    "the supplement that CVPR has. Ours: the file named beside each."
)
SOURCE = "source"
"""The heading of a column that tells where a row's numbers are from."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: as many as its head has.
        is_ours: whether its numbers are ours; else they are the paper's.
    """

    cells: Sequence[str]
    is_ours: bool = True


@dataclass(frozen=True)
class Table:
    """Numbers with their sources.

    Attributes:
        head: what the columns tell; one of them is `SOURCE`.
        rows: below it.
        numbers: those of `head` whose cells are numbers.
    """

    head: Sequence[str]
    rows: Sequence[Row]
    numbers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture of runs.

    Attributes:
        name: of its file.
        caption: what it shows.
        png: the picture.
    """

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Section:
    """What the page tells of a run, or of several beside each other.

    Attributes:
        title: what it is about.
        uri: where the run lies; empty for several.
        state: how far the run is.
        facts: what was done.
        tables: what came out; one without rows is not shown.
        notes: what to know of it, a paragraph each.
        differences: what is not as in the paper's own run, a line each; None where the paper has
            no such run.
        pictures: to show.
    """

    title: str
    uri: str = ""
    state: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    differences: Sequence[str] | None = None
    pictures: Sequence[Picture] = ()


# ---- HTML ---------------------------------------------------------------------------------------


def to_html(title: str, sections: Sequence[Section]) -> bytes:
    """One file with all pictures in it."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_safe(title)}</title>",
        f"<style>{STYLE}</style><h1>{_safe(title)}</h1>",
        *(line for section in sections for line in _section_html(section)),
        f"<p class=faint>{_safe(SOURCES)}</p></html>",
    ]
    return "\n".join(parts).encode()


def _section_html(section: Section) -> Iterable[str]:
    yield f"<h2>{_safe(section.title)}</h2>"
    if section.uri:
        yield f"<p><code>{_safe(section.uri)}</code>: {_safe(section.state)}</p>"
    if section.facts:
        facts = (f"<tr><th>{_safe(n)}<td>{_safe(value)}" for n, value in section.facts.items())
        yield f"<table>{''.join(facts)}</table>"
    yield from (_table_html(table) for table in section.tables if table.rows)
    yield from (f"<p>{_safe(note)}</p>" for note in section.notes)
    yield from _differences_html(section.differences)
    yield from map(_picture_html, section.pictures)


def _table_html(table: Table) -> str:
    classes = [_class_of(name, table) for name in table.head]
    head = "".join(f"<th{c}>{_safe(n)}" for n, c in zip(table.head, classes, strict=True))
    body = "".join(
        f"<tr{' class=ours' if row.is_ours else ''}>"
        + "".join(f"<td{c}>{_safe(cell)}" for cell, c in zip(row.cells, classes, strict=True))
        for row in table.rows
    )
    return f"<table><tr>{head}{body}</table>"


def _class_of(name: str, table: Table) -> str:
    if name in table.numbers:
        return " class=number"
    return " class=faint" if name == SOURCE else ""


def _differences_html(differences: Sequence[str] | None) -> Iterable[str]:
    if differences is None:
        return
    yield "<h3>What is not as in the paper</h3>"
    listed = "".join(f"<li>{_safe(line)}" for line in differences)
    yield f"<ul>{listed}</ul>" if differences else "<p>Nothing: the recipe is the paper's.</p>"


def _picture_html(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    caption = _safe(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _safe(text: str) -> str:
    return html.escape(text)


# ---- Markdown -----------------------------------------------------------------------------------


def to_markdown(title: str, sections: Sequence[Section]) -> tuple[str, dict[str, bytes]]:
    """The text, and the pictures that it shows, by file name."""
    pictures: dict[str, bytes] = {}
    lines = [f"# {title}", ""]
    for number, section in enumerate(sections, start=1):
        lines += [f"## {section.title}", ""]
        if section.uri:
            lines += [f"`{section.uri}`: {section.state}", ""]
        lines += [*(f"- {name}: {value}" for name, value in section.facts.items()), ""]
        lines += [
            part for table in section.tables if table.rows for part in (markdown_of(table), "")
        ]
        lines += [line for note in section.notes for line in (note, "")]
        lines += _differences_markdown(section.differences)
        for picture in section.pictures:
            name = f"{number}-{picture.name}"
            pictures[name] = picture.png
            lines += [f"![{picture.caption}]({name})", f"*{picture.caption}*", ""]
    return "\n".join([*lines, SOURCES, ""]), pictures


def markdown_of(table: Table) -> str:
    """A table."""
    ends = ("--:" if name in table.numbers else "---" for name in table.head)
    rows = (" | ".join(cell.replace("|", "/") for cell in row.cells) for row in table.rows)
    lines = (" | ".join(table.head), " | ".join(ends), *rows)
    return "\n".join(f"| {line} |" for line in lines)


def _differences_markdown(differences: Sequence[str] | None) -> list[str]:
    if differences is None:
        return []
    listed = [f"- {line}" for line in differences] or ["Nothing: the recipe is the paper's."]
    return ["### What is not as in the paper", "", *listed, ""]
