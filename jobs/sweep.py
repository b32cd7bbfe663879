"""Try what a choice is worth: many pretrainings that differ in it, and a table of their scores."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from ctp.cli import CommandLine
from ctp.cluster.sweep import sweep_here
from ctp.progress import duration
from ctp.storage import Storage, StorageError
from ctp.sweeps.config import SweepConfig
from ctp.sweeps.folder import PLOT, ROWS, TABLE
from ctp.sweeps.plan import Plan
from ctp.sweeps.recipes import SWEEP
from ctp.sweeps.standing import Lines
from ctp.sweeps.table import result_markdown

ABOUT = """Try what a choice is worth: pretrain with each of its values, score the encoders, and
show the scores beside each other and beside the paper's.

The sweep's folder STORAGE/NAME gets table.md, table.csv and plot.png, written again after each
trial, and in runs/ the run folders. The same command goes on with what was broken off, and tries
again what has failed; with more --seeds, or more values in --grid, it adds to what is there.

  sweep.py --recipe table2a --scale small --seeds 3
  sweep.py --grid game.num_patches=1,2,3,4 --set schedule.length=2000 --scores iou,linear
  sweep.py --grid "sigma=[.8,.8,.04,.04],[1,1,.05,.05]" --grid head.squeeze=true,false
  sweep.py --recipe table2b --scale paper --storage s3://bucket/sweeps \\
           --set data.uri=s3://bucket/k400 --set finetune.ucf101.data.uri=s3://bucket/ucf/train \\
           --set finetune.ucf101.data.test_uri=s3://bucket/ucf/test --scores finetune-ucf101
  sweep.py --recipe curriculum --scale small --seeds 4 --asha.grace 20"""
BY_HAND = "grid"
"""The recipe that names no table."""
OF_MANY_VALUES = ("--set", "--grid")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, run all trials, and show the table."""
    began = time.monotonic()
    recipe, config = CommandLine(SWEEP, BY_HAND, ABOUT).parse(
        _quoted(sys.argv[1:] if argv is None else argv)
    )
    if not config.name:
        config = config.replace(name=_name(recipe, config))
    try:
        plan = Plan.of(config.replace(storage=Storage.of(config.storage).uri))
        sweep = sweep_here(plan, Lines())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    except (ValueError, StorageError, ConnectionError) as error:
        sys.exit(f"error: {error}")
    print(result_markdown(sweep))
    print(f"{plan.folder.uri}/{{{TABLE},{ROWS},{PLOT}}} after {duration(time.monotonic() - began)}")
    failed = sweep.ended("failed")
    if failed:
        sys.exit(
            f"error: {len(failed)} of {len(sweep.plan.trials)} trials failed, see the table. The "
            "same command tries them again"
        )


def _name(recipe: str, config: SweepConfig) -> str:
    """What a sweep is called: what it varies, and its scale."""
    fields = [text.partition("=")[0].strip().rpartition(".")[2] for text in config.grid]
    varied = [] if recipe == BY_HAND else [recipe]
    return "-".join([*varied, *fields, config.scale])


def _quoted(argv: Sequence[str]) -> list[str]:
    """The arguments, those with values in quotes, or the parser would part them at commas."""
    quoted, is_value = [], False
    for word in argv:
        option, mark, value = word.partition("=")
        if is_value:
            word = json.dumps(word)
        elif mark and option in OF_MANY_VALUES:
            word = f"{option}={json.dumps(value)}"
        is_value = not is_value and word in OF_MANY_VALUES
        quoted.append(word)
    return quoted


if __name__ == "__main__":
    main()
