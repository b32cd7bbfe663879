"""Put runs on one page: curves, scores, the paper's numbers beside ours, and what differs."""

from __future__ import annotations

import sys
from typing import Literal

from ctp.cli import CommandLine
from ctp.config import Config
from ctp.report.collect import sections_of
from ctp.report.page import to_html, to_markdown
from ctp.storage import Storage, StorageError

ABOUT = """Put runs on one page: their curves, scores and pictures, the paper's published numbers
beside ours, and what differs from the paper's own run. Runs that can be compared stand beside each
other first: what initial weights are worth, with means over seeds.

RUNS are folders of jobs/pretrain.py, finetune.py, track.py and retrieve.py, or folders that hold
such folders, local or on S3.

  report.py --runs runs/pretrained,runs/finetuned,retrieval --out report
  report.py --runs runs --out report"""
PAGE = {"html": "report.html", "markdown": "report.md"}


class ReportConfig(Config):
    """One page of some runs (default)."""

    runs: tuple[str, ...] = ()
    """Folders or URIs of runs, or of folders that hold some, in the order of the page."""
    format: Literal["html", "markdown"] = "html"
    """One file with all in it, or Markdown with its pictures beside it."""
    title: str = "Runs of Catch-the-Patch"
    """Title of the page."""
    out: str = "report"
    """Folder or URI for the page."""


def main(argv: list[str] | None = None) -> None:
    """Parse, read, write, and say where the page is."""
    _, config = CommandLine({"report": ReportConfig}, "report", ABOUT).parse(argv)
    try:
        _run(config)
    except (ValueError, StorageError) as error:
        sys.exit(f"error: {error}")


def _run(config: ReportConfig) -> None:
    if not config.runs:
        raise ValueError("--runs is missing: folders of runs")
    out = Storage.of(config.out)
    out.check_writable()
    sections = sections_of(config.runs)
    if config.format == "html":
        pages = {PAGE["html"]: to_html(config.title, sections)}
    else:
        text, pages = to_markdown(config.title, sections)
        pages[PAGE["markdown"]] = text.encode()
    for name, data in pages.items():
        out.join(name).write_bytes(data)
    print(out.join(PAGE[config.format]).uri)


if __name__ == "__main__":
    main()
