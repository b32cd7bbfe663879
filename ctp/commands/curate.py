"""Cut raw videos into segments worth training on."""

from __future__ import annotations

from ctp.cli import CommandLine
from ctp.commands.next_step import print_next
from ctp.curation.config import RulesConfig
from ctp.recipes import CURATE

ABOUT = """Cut raw videos at their cuts, drop what teaches nothing, and write Parquet shards.

Each segment is measured: length, size, brightness, motion, shake, text, black bars, duplicates.
OUT gets shards for training, a _manifest.json that counts what each rule dropped, and a _page.html
with histograms and pictures, by which a person can judge the rules. --dry_run true does this for a
sample. The same command resumes. Needs the extra curate: pip install -e '.[curate]'."""
MAIN_OPTIONS = (
    "source",
    "out",
    "dry_run",
    "sample",
    "num_tasks",
    "cuts.detector",
    "cuts.threshold",
    "cuts.max_seconds",
    *(f"rules.{name}" for name in RulesConfig.model_fields),
    "transcode.codec",
    "transcode.short_side_px",
)
COMMAND = CommandLine(CURATE, "default", ABOUT, MAIN_OPTIONS)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and curate."""
    parsed = COMMAND.parse(argv)
    from ctp.cluster.launch import run_command  # torch and Ray: --help needs neither
    from ctp.commands.work.curate import run

    out = run_command(COMMAND, parsed, run)
    if parsed[1].dry_run:
        print("next: look at the page; then the same command without --dry_run true")
    else:
        print_next(("pretrain", "--recipe", "one-gpu", "--data.uri", out, "--name", "NAME"))
