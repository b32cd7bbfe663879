"""A page of runs: tables, differences from the paper, and pictures; as HTML or as Markdown."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from jinja2 import Environment, PackageLoader, StrictUndefined

from ctp.score import ERROR

SOURCES = (
    "Published numbers: Wang et al., Unsupervised Visual Representation Learning by Tracking "
    "Patches in Video, CVPR 2021, by table; Tables 6 to 10 of its appendix are Tables 1 to 5 of "
    "the supplement that CVPR has. Ours: the file named beside each."
)
ERRORS = (
    f"{ERROR}; beside a mean over runs it is the sample standard deviation. Click on a run for its "
    "curves, pictures and options."
)
SOURCE = "source"
"""Name of the column with the file or the paper's table that a row's numbers are from."""
_NUMBER = re.compile(r"-?[\d.]+%?( ± [\d.]+%?)?( \([\d.]+%?\))?|–?")
_TEMPLATES = Environment(
    loader=PackageLoader("ctp.report", ""),
    autoescape=lambda name: name is not None and name.endswith(".html"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)


class Table:
    """Numbers with their sources.

    Attributes:
        rows: text of the cells by the name of their column; columns without text are left out.
    """

    def __init__(self, rows: Sequence[Mapping[str, str]]):
        names = dict.fromkeys(name for row in rows for name in row)
        columns = [name for name in names if any(row.get(name) for row in rows)]
        self.rows = [{name: row.get(name, "") for name in columns} for row in rows]

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return list(self.rows[0]) if self.rows else []

    def style(self, column: str) -> str:
        """Return what a column holds: "source", "number" or "text"."""
        if column == SOURCE:
            return SOURCE
        is_number = all(_NUMBER.fullmatch(row[column]) for row in self.rows)
        return "number" if is_number else "text"

    def is_paper(self, row: Mapping[str, str]) -> bool:
        """Return whether the numbers of a row are the paper's alone."""
        return any(cell.startswith("paper, ") for cell in row.values())

    def markdown(self) -> str:
        """Return the table as Markdown."""
        ends = ("--:" if self.style(name) == "number" else "---" for name in self.columns)
        rows = ((cell.replace("|", "/") for cell in row.values()) for row in self.rows)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (self.columns, ends, *rows))


@dataclass(frozen=True)
class Picture:
    """A picture of runs.

    Attributes:
        caption: what it shows.
        png: the picture.
    """

    caption: str
    png: bytes

    @property
    def data_uri(self) -> str:
        """Return the picture as a URI that contains it."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Section:
    """A section of the page: a run, or a comparison of several.

    Attributes:
        title: heading.
        uri: the run's folder; "" for several runs.
        state: whether the run is finished.
        facts: name -> value, how it was computed.
        tables: the results; a table without rows is not shown.
        notes: paragraphs below the tables.
        differences: from the paper's own run, a line each; None if the paper has no such run.
        pictures: shown last.
        summary: the run's line in the first table of the page, by the names of the columns; none
            for several runs.
    """

    title: str
    uri: str = ""
    state: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    differences: Sequence[str] | None = None
    pictures: Sequence[Picture] = ()
    summary: Mapping[str, str] = field(default_factory=dict)


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML, with its pictures inside and paths relative to the runs' folder."""
    runs = [section for section in sections if section.summary]
    page = _TEMPLATES.get_template("page.html").render(
        title=title,
        sections=sections,
        summary=Table([section.summary for section in runs]),
        errors=ERRORS,
        sources=SOURCES,
    )
    # the reader of a page that was sent has none of these folders
    for base in (_common_folder([run.uri for run in runs]), os.getcwd()):
        page = page.replace(html.escape(f"{base}/"), "") if base.strip("/") else page
    return page


def _common_folder(uris: Sequence[str]) -> str:
    """Return the folder or prefix that contains all of some folders, "" if there is none."""
    parents = [uri.rpartition("/")[0].split("/") for uri in uris]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))
    common = "/".join(parts[0] for parts in shared)
    return "" if common.endswith(":/") else common  # "s3:/" of several buckets


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the page as Markdown, without its pictures."""
    template = _TEMPLATES.get_template("page.md")
    text = template.render(title=title, sections=sections, sources=SOURCES)
    return re.sub(r"\n{3,}", "\n\n", text)
