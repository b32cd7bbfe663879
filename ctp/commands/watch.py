"""Serve a live page of runs."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Annotated

from annotated_types import Ge, Le

from ctp.cli import CommandLine
from ctp.config import Config
from ctp.run_names import RUNS, find_run_folder
from ctp.storage import Storage

ABOUT = """Serve a live page of one or several runs, of which it reads the folders: loss, score,
speed, state, warnings, quarantined videos, and predictions on the same clips as they improve.

  ctp watch NAME                       a run, also one that has not started yet
  ctp watch NAME OTHER                 runs beside each other, and what differs between them
  ctp watch s3://bucket/runs/NAME      from any machine that reads the storage

The page is served to this machine alone. From another machine, forward the port:
ssh -L 6070:127.0.0.1:6070 HOST"""


class WatchConfig(Config):
    """Runs on one page (default)."""

    runs: tuple[str, ...] = ()
    """The runs: names, or paths or URIs of their folders."""
    storage: str = RUNS
    """Folder or URI of the run folders."""
    port: Annotated[int, Ge(0), Le(65535)] | None = None
    """Port of the page; none: 6070, or the next one that is free; 0: any free one."""
    predictions: bool = True
    """Draw predictions of pretraining runs when a checkpoint appears, in a process of low priority
    on this machine."""


COMMAND = CommandLine({"watch": WatchConfig}, "watch", ABOUT)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, print the address of the page, and serve it until Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    names = list(takewhile(lambda word: not word.startswith("-"), words))
    COMMAND.run(_run, [*(f"--runs={name}" for name in names), *words[len(names) :]])


def _run(config: WatchConfig) -> None:
    from ctp.watch.run import WatchedRun  # NumPy and more: --help needs none
    from ctp.watch.server import serving

    names = config.runs or ("",)  # which is an error that lists the runs
    folders = [_folder_of(name, config.storage) for name in names]
    short = [folder.path.rpartition("/")[2] for folder in folders]
    shown = short if len({*short}) == len(short) else names
    runs = [WatchedRun(folder, name) for folder, name in zip(folders, shown, strict=True)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end what draws
    with serving(runs, config.port, with_pictures=config.predictions) as url:
        print(f"{url} shows {', '.join(run.view.name for run in runs)}; Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def _folder_of(name: str, storage: str) -> Storage:
    """Return the folder of a run, also of one that has not started yet.

    Raises:
        ValueError: the name is empty.
    """
    try:
        return find_run_folder(name, storage)
    except ValueError as error:
        if not name:
            raise
        print(f"waiting for the run {name}: {error}")
        return Storage.from_uri(name) if "/" in name else Storage.from_uri(storage).join(name)
