"""A page that tells of runs: scores beside the paper's, what differs, curves and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ctp.analysis.published import Published

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { margin-top: 3rem; border-bottom: 2px solid #e5e7eb; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #e5e7eb; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.ours { font-weight: 600; } .faint { color: #6b7280; } img { max-width: 100%; }
figure { margin: 1.5rem 0; } figcaption { color: #6b7280; }
"""


@dataclass(frozen=True)
class Score:
    """A number of ours.

    Attributes:
        name: what was measured.
        value: as it is to be read, e.g. "84.0 %".
        source: where the number is from: a URI.
        published: the paper's numbers of the same measure.
    """

    name: str
    value: str
    source: str
    published: Sequence[Published] = ()


@dataclass(frozen=True)
class Picture:
    """A picture of a run.

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
    """What the page tells of a run.

    Attributes:
        title: its name.
        uri: where it lies.
        state: how far it is.
        facts: what it was made with.
        scores: what came out.
        differences: what is not as in the paper's own run, a line each; None where the paper has
            no such run.
        pictures: to show.
    """

    title: str
    uri: str
    state: str
    facts: Mapping[str, str] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    differences: Sequence[str] | None = None
    pictures: Sequence[Picture] = ()


def to_html(title: str, sections: Sequence[Section]) -> bytes:
    """One file with all pictures in it."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_safe(title)}</title>",
        f"<style>{STYLE}</style><h1>{_safe(title)}</h1>",
        *(line for section in sections for line in _section_html(section)),
        f"<p class=faint>{_safe(SOURCES)}</p></html>",
    ]
    return "\n".join(parts).encode()


def to_markdown(title: str, sections: Sequence[Section]) -> tuple[str, dict[str, bytes]]:
    """The text, and the pictures that it shows, by file name."""
    pictures: dict[str, bytes] = {}
    lines = [f"# {title}", ""]
    for number, section in enumerate(sections, start=1):
        lines += [f"## {section.title}", "", f"`{section.uri}`: {section.state}", ""]
        lines += [f"- {name}: {value}" for name, value in section.facts.items()]
        lines += ["", *_markdown_table(_score_rows(section.scores)), ""]
        lines += _markdown_differences(section.differences)
        for picture in section.pictures:
            name = f"{number}-{picture.name}"
            pictures[name] = picture.png
            lines += [f"![{picture.caption}]({name})", f"*{picture.caption}*", ""]
    return "\n".join([*lines, SOURCES, ""]), pictures


SOURCES = (
    "Published numbers: Wang et al., Unsupervised Visual Representation Learning by Tracking "
    "Patches in Video, CVPR 2021, by table; Tables 6 and on are in its supplement. Ours: the file "
    "named beside each."
)
HEAD = ("", "measure", "%", "source")
OURS = "ours"


def _score_rows(scores: Sequence[Score]) -> list[tuple[str, str, str, str]]:
    """Rows under `HEAD`: each score of ours, then those of the paper."""
    rows = []
    for score in scores:
        rows.append((OURS, score.name, score.value, score.source))
        rows += [
            (f"paper, {each.method}", score.name, f"{each.percent:.1f}", each.source)
            for each in score.published
        ]
    return rows


def _section_html(section: Section) -> Iterable[str]:
    yield f"<h2>{_safe(section.title)}</h2>"
    yield f"<p><code>{_safe(section.uri)}</code>: {_safe(section.state)}</p>"
    facts = "".join(
        f"<tr><th>{_safe(name)}<td>{_safe(value)}" for name, value in section.facts.items()
    )
    yield f"<table>{facts}</table>"
    if section.scores:
        yield _table_html(_score_rows(section.scores))
    yield from _differences_html(section.differences)
    for picture in section.pictures:
        data = base64.b64encode(picture.png).decode()
        caption = _safe(picture.caption)
        yield (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )


def _table_html(rows: Sequence[tuple[str, str, str, str]]) -> str:
    head = "".join(f"<th>{_safe(name)}" for name in HEAD)
    body = "".join(
        f"<tr{' class=ours' if who == OURS else ''}><td>{_safe(who)}<td>{_safe(name)}"
        f"<td class=number>{_safe(value)}<td class=faint>{_safe(source)}"
        for who, name, value, source in rows
    )
    return f"<table><tr>{head}{body}</table>"


def _differences_html(differences: Sequence[str] | None) -> Iterable[str]:
    if differences is None:
        return
    yield "<h3>What is not as in the paper</h3>"
    listed = "".join(f"<li>{_safe(line)}" for line in differences)
    yield f"<ul>{listed}</ul>" if differences else "<p>Nothing: the recipe is the paper's.</p>"


def _markdown_table(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    if not rows:
        return []
    return [
        f"| {' | '.join(HEAD)} |",
        f"| {' | '.join('---' for _ in HEAD)} |",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows),
    ]


def _markdown_differences(differences: Sequence[str] | None) -> list[str]:
    if differences is None:
        return []
    listed = [f"- {line}" for line in differences] or ["Nothing: the recipe is the paper's."]
    return ["### What is not as in the paper", "", *listed, ""]


def _safe(text: str) -> str:
    return html.escape(text)
