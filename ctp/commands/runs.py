"""List runs, show one, prune its checkpoints, or delete it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from annotated_types import Ge

from ctp.cli import CommandLine, exit_by, exit_with
from ctp.config import Config
from ctp.lease import LeaseError
from ctp.report.run_list import (
    COLUMNS,
    delete_run,
    describe_run,
    find_run,
    list_runs,
    prune_run,
    summarise_folder,
)
from ctp.storage import StorageError

ABOUT = """List the runs of a storage, or show, prune or delete one.

  ctp runs [list] --storage s3://bucket/runs     state, step, last checkpoint, score
  ctp runs show NAME                           checkpoints, and the processes that wrote the run
  ctp runs prune NAME --keep 1                 delete all but the newest checkpoints
  ctp runs delete NAME                         delete the run, after a question; --yes: without

A run that a process is writing is not pruned or deleted. Each command has its own --help."""


class ListConfig(Config):
    """The runs of a storage (default)."""

    storage: str = "runs"
    """Folder or URI of the run folders."""


class ShowConfig(ListConfig):
    """One run (default)."""

    name: str = ""
    """The run: its name, as the list has it, or the path or URI of its folder."""


class PruneConfig(ShowConfig):
    """The checkpoints of a run (default)."""

    keep: Annotated[int, Ge(1)] = 1
    """Number of checkpoints to keep, the newest."""


class DeleteConfig(ShowConfig):
    """A run (default)."""

    yes: bool = False
    """Ask no question."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command and carry it out."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-h"], ["--help"]):
        print(ABOUT)
        return
    # without a command, options or nothing: list
    verb = "list" if not words or words[0].startswith("-") else words.pop(0)
    if verb not in VERBS:
        exit_with(f"error: no command {verb!r}; expected one of {', '.join(VERBS)}", 2)
    _, run = VERBS[verb]
    _, config = COMMANDS[verb].parse(_as_options(words))
    try:
        run(config)
    except (ValueError, StorageError, LeaseError) as error:
        exit_by(error)


def _as_options(words: list[str]) -> list[str]:
    """Return the arguments with `NAME` as `--name NAME`, and a bare `--yes` with its value."""
    if words and not words[0].startswith("-"):
        words = ["--name", *words]
    return ["--yes=true" if word == "--yes" else word for word in words]


def _list(config: ListConfig) -> None:
    rows = [list(COLUMNS), *(run.cells for run in list_runs(config.storage))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _show(config: ShowConfig) -> None:
    print("\n".join(describe_run(config.storage, config.name)))


def _prune(config: PruneConfig) -> None:
    deleted = prune_run(config.storage, config.name, config.keep)
    folder = find_run(config.storage, config.name)
    print(f"{folder.uri}: {', '.join(deleted) or 'nothing'} deleted")


def _delete(config: DeleteConfig) -> None:
    folder = find_run(config.storage, config.name)
    run = summarise_folder(folder, config.name)
    if not config.yes:
        print(f"delete {folder.uri} ({run.kind}, {run.state}, step {run.step})? [y/N] ", end="")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            sys.exit("nothing is deleted")
    delete_run(config.storage, config.name)
    print(f"{folder.uri} is deleted")


VERBS: dict[str, tuple[type[Config], Callable[[Any], None]]] = {
    "list": (ListConfig, _list),
    "show": (ShowConfig, _show),
    "prune": (PruneConfig, _prune),
    "delete": (DeleteConfig, _delete),
}
COMMANDS = {verb: CommandLine({verb: make}, verb, ABOUT) for verb, (make, _) in VERBS.items()}
