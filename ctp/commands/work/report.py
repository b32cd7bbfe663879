"""Put runs on one page: curves, scores, the paper's numbers beside ours, and what differs."""

from __future__ import annotations

from ctp.commands.report import ReportConfig
from ctp.report.page import to_html
from ctp.report.sections import sections_of
from ctp.storage import Storage

PAGE = "report.html"


def run(config: ReportConfig) -> None:
    """Read the runs, write the page, and print where it is.

    Raises:
        ValueError: a run cannot be read.
        StorageError: the page cannot be written.
    """
    if not config.runs:
        raise ValueError("--runs is missing: folders of runs")
    out = Storage.from_uri(config.out)
    out.check_output()
    page = to_html(config.title, sections_of(config.runs))
    out.join(PAGE).write_bytes(page.encode())
    print(out.join(PAGE).uri)
