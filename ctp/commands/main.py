"""The command `ctp`: each job as `ctp JOB`, with completion in bash, zsh and fish."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ctp.cli import CommandLine
from ctp.run_names import CONFIG, RUNS
from ctp.text import near_miss
from ctp.versions import describe_writer, written_by

JOBS = (
    "pretrain",
    "watch",
    "preview",
    "finetune",
    "track",
    "embed",
    "retrieve",
    "gradcam",
    "export",
    "report",
    "runs",
    "sweep",
    "curate",
    "build-shards",
    "bench",
)
"""In the order of `ctp --help`. Each is a module of `ctp.commands`, with `_` for `-`."""
OPTIONS_OF_RUNS = ("--run", "--runs", "--from", "--initial", "--initial_encoder", "--encoder")


class Job(click.Command):
    """A job, which parses its own arguments."""

    def __init__(self, name: str):
        self.module = import_module(f"ctp.commands.{name.replace('-', '_')}")
        line = (self.module.__doc__ or "").splitlines()[0]
        super().__init__(name, short_help=line, add_help_option=False)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep all arguments for the job."""
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> None:
        """Run the job."""
        sys.argv[0] = ctx.command_path  # the name in its messages
        main: Callable[[Sequence[str]], None] = self.module.main
        main(ctx.args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        """Return the options, or the values of the last option, that start with `incomplete`;
        for a run the local ones, and files."""
        verbs: dict[str, CommandLine[Any]] = getattr(self.module, "COMMANDS", {})
        if verbs and not ctx.args:
            words = list(verbs)
        else:
            command = verbs[ctx.args[0]] if verbs else self.module.COMMAND
            words = command.complete(ctx.args)
        # --encoder of a pretraining has words of its own
        is_run = self._is_run(ctx.args) or (not words and ctx.args[-1] in OPTIONS_OF_RUNS)
        runs = _local_runs(ctx.args) if is_run else []
        items = [CompletionItem(word) for word in [*runs, *words] if word.startswith(incomplete)]
        return items if words else [*items, CompletionItem(incomplete, type="file")]

    def _is_run(self, args: Sequence[str]) -> bool:
        """Return whether the word after some arguments is the name of a run, without an option."""
        last = args[-1] if args else ""
        is_name = {"watch": not last.startswith("-"), "runs": last in ("show", "prune", "delete")}
        return is_name.get(self.name or "", False)


def _local_runs(args: Sequence[str]) -> list[str]:
    """Return the names of the runs in the local folder that `--storage` names, or in `runs`."""
    storage = dict(pairwise(args)).get("--storage", RUNS)
    return sorted(path.parent.name for path in Path(storage).glob(f"*/{CONFIG}"))


class Jobs(click.Group):
    """The jobs by name; `_` may be written for `-`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names."""
        return list(JOBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a job, or None."""
        name = cmd_name.replace("_", "-")
        if name not in JOBS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"there is no job {cmd_name!r}{near_miss(name, JOBS)}")
        return Job(name) if name in JOBS else None


def _print_version(ctx: click.Context, param: click.Parameter, is_given: bool) -> None:
    if is_given:
        print(describe_writer(written_by()))
        ctx.exit()


@click.group(
    cls=Jobs,
    epilog="ctp JOB --help shows a job's options. ctp JOB is the same as python jobs/JOB.py.",
    context_settings={"max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the versions of ctp, torch and Ray, and exit.",
)
def main() -> None:
    """Pretrain video encoders without labels, and measure them."""
