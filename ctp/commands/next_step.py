"""The command that usually follows a job, as a line to paste."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ctp.storage import Storage
from ctp.training.config import RunConfig

SMALL_RECIPES = ("tiny", "small")
"""Recipes of pretraining whose encoder the downstream recipe small takes."""


def print_next(*commands: tuple[str, ...]) -> None:
    """Print commands, each given as a job and its arguments, as this process was started."""
    is_ctp = Path(sys.argv[0]).name.startswith("ctp")
    for number, (job, *arguments) in enumerate(commands):
        start = f"ctp {job}" if is_ctp else f"python jobs/{job.replace('-', '_')}.py"
        print(f"{'next:' if not number else '  or:'} {start} {shlex.join(arguments)}")


def from_here(uri: str) -> str:
    """Return a location; a path below the current folder is made relative to it."""
    path, here = Path(uri), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else uri


def run_argument(config: RunConfig) -> str:
    """Return how to name a run: by its folder, which every command finds."""
    return from_here(f"{config.storage.rstrip('/')}/{config.name}")


def after_pretraining(config: RunConfig) -> None:
    """Print what to do with a pretrained encoder."""
    run = run_argument(config)
    if config.recipe in SMALL_RECIPES:
        labelled, videos = ["--recipe", "small"], "corpus:120"
    else:
        labelled, videos = ["--data.uri", "TRAIN", "--data.test_uri", "TEST"], "VIDEOS"
    print_next(
        ("preview", "--run", run),
        ("finetune", *labelled, "--initial", run),
        ("embed", "--encoder", run, "--data.uri", videos, "--out", "features"),
    )


def after_training(config: RunConfig) -> None:
    """Print what to do with the scores of a run."""
    run = run_argument(config)
    gradcam = [("gradcam", "--runs", run)] if config.KIND == "finetune" else []
    print_next(("report", "--runs", run), *gradcam)


def after_report(out: str, runs: Sequence[str]) -> None:
    """Print how to see a report: in a browser if it is on this machine, otherwise a copy."""
    folder = Storage.from_uri(out)
    if folder.is_local:
        print(f"next: {shlex.join(['python', '-m', 'webbrowser', f'{folder.path}/report.html'])}")
    else:
        print_next(("report", "--runs", ",".join(runs), "--out", "report"))


def after_export(program: str) -> None:
    """Print how to load an exported program, which needs torch alone."""
    load = f"import torch; print(torch.export.load({json.dumps(program)}).module())"
    print(f"next: {shlex.join(['python', '-c', load])}")
