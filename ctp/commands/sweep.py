"""Pretrain with several values of options, and compare them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from ctp.cli import CommandLine, exit_by
from ctp.commands.next_step import print_next
from ctp.lease import LeaseError
from ctp.progress import duration
from ctp.storage import StorageError
from ctp.sweeps.recipes import SWEEP

ABOUT = """Compare values of options: pretrain with each of them, score the encoders, and show the
scores beside each other and beside the paper's.

The sweep's folder STORAGE/NAME contains table.md, table.csv and plot.png, updated after each trial,
and the run folders in runs/. The same command resumes an interrupted sweep, and tries failed trials
again; with more --seeds, more rows or more values in --grid, it adds trials.

  ctp sweep --recipe table2a --scale small --seeds 3
  ctp sweep --grid task.num_patches=1,2,3,4 --set schedule.length=2000 --scores task,linear
  ctp sweep --grid "task.sigma=[.8,.8,.04,.04],[1,1,.05,.05]" --grid task.head.squeeze=true,false
  ctp sweep --row task.num_patches=1 --row "task.labels=cycle task.preset_share=.5" --seeds 3
  ctp sweep --recipe table4 --scale paper --data s3://bucket/sets --storage s3://bucket/sweeps
  ctp sweep --recipe table2b --scale paper --storage s3://bucket/sweeps \\
           --set data.uri=s3://bucket/k400 --set finetune.ucf101.data.uri=s3://bucket/ucf/train \\
           --set finetune.ucf101.data.test_uri=s3://bucket/ucf/test --scores finetune-ucf101
  ctp sweep --recipe curriculum --scale small --seeds 4 --asha.grace 20"""
OPTIONS_WITH_COMMAS = ("--set", "--grid", "--row")
MAIN_OPTIONS = (
    "name",
    "storage",
    "scale",
    "data",
    "grid",
    "row",
    "set",
    "seeds",
    "scores",
    "trials_at_once",
    "asha.grace",
)
COMMAND = CommandLine(SWEEP, "grid", ABOUT, MAIN_OPTIONS)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, run the sweep, and print its table."""
    started = time.monotonic()
    _, config = COMMAND.parse(_quoted(sys.argv[1:] if argv is None else argv))
    # torch and Ray: --help needs neither
    from ctp.cluster.errors import StoppedError
    from ctp.cluster.sweep import run_sweep
    from ctp.sweeps.table import PLOT, ROWS, TABLE, result_markdown

    try:
        sweep = run_sweep(config)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command resumes the sweep")
    except StoppedError as error:
        sys.exit(f"error: {error}")
    except (ValueError, StorageError, ConnectionError, LeaseError) as error:
        exit_by(error)
    print(result_markdown(sweep))
    seconds = time.monotonic() - started
    print(f"{sweep.plan.folder.uri}/{{{TABLE},{ROWS},{PLOT}}} after {duration(seconds)}")
    print_next(("report", "--runs", sweep.plan.folder.join("runs").uri))
    failed = sweep.with_status("failed")
    if failed:
        sys.exit(
            f"error: {len(failed)} of {len(sweep.plan.trials)} trials failed, see the table. The "
            "same command tries them again"
        )


def _quoted(argv: Sequence[str]) -> list[str]:
    """Return the arguments with quoted values, which the parser would split at commas."""
    quoted, is_value = [], False
    for word in argv:
        option, equals, value = word.partition("=")
        if is_value:
            word = json.dumps(word)
        elif equals and option in OPTIONS_WITH_COMMAS:
            word = f"{option}={json.dumps(value)}"
        # the word after such an option is its value, even if it looks like an option
        is_value = not is_value and word in OPTIONS_WITH_COMMAS
        quoted.append(word)
    return quoted
