"""Put runs on one page, beside the paper's numbers."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.commands.next_step import after_report
from ctp.config import Config

ABOUT = """Put runs on one page: their curves, scores and pictures, the paper's published numbers
beside ours, and the differences from the paper's own run. Runs that can be compared come first,
beside each other: scores by initial weights, with means over seeds.

RUNS are folders of jobs/pretrain.py, finetune.py, track.py and retrieve.py, or folders that contain
such folders, local or on S3. OUT gets report.html, one file with all pictures inside.

  ctp report --runs runs/pretrained,runs/finetuned,retrieval --out report
  ctp report --runs runs --out report"""


class ReportConfig(Config):
    """One page of some runs (default)."""

    runs: tuple[str, ...] = ()
    """Runs, in the order of the page: names in the folder runs, folders or URIs of runs, or folders
    that contain some."""
    title: str = "Runs of ctp"
    """Title of the page."""
    out: str = "report"
    """Folder or URI for the page."""


COMMAND = CommandLine({"report": ReportConfig}, "report", ABOUT)


def main(argv: list[str] | None = None) -> None:
    """Parse, read the runs, write the page, and print where it is."""
    COMMAND.run(_run, argv)


def _run(config: ReportConfig) -> None:
    from ctp.commands.work.report import run  # torch: --help needs none

    run(config)
    after_report(config.out, config.runs)
