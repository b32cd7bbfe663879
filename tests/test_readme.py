"""The README and the pages that it links: commands are accepted, files exist, tables are complete,
and the README's commands run, as far as they need no GPU, no cluster and no data of the user."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp.encoders.registry import ENCODERS
from ctp.pretext.registry import TASKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = README + "".join(path.read_text() for path in sorted(ROOT.glob("ctp/**/README.md")))
COMMAND = re.compile(r"\bpython (jobs/\w+\.py[^`\n]*)")


def commands_of(text: str) -> list[str]:
    return COMMAND.findall(text.replace("\\\n", ""))


def test_named_files_exist() -> None:
    named = set(re.findall(r"(?:deploy|jobs|ctp|tests)/[\w/.-]*\w", PAGES))
    assert "ctp/recipes.py" in named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_contents_name_each_section() -> None:
    linked = re.findall(r"\[([^]]+)\]\(#([\w-]+)\)", README)
    assert [name for name, _ in linked] == re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert all(anchor == name.lower().replace(" ", "-") for name, anchor in linked)


@pytest.mark.parametrize("command", commands_of(PAGES))
def test_a_job_accepts_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, *options = shlex.split(command, comments=True)
    main = runpy.run_path(str(ROOT / path), run_name=path)["main"]
    with pytest.raises(SystemExit) as ended:
        main([*options, "--print-config"])
    assert ended.value.code in (None, 0), capsys.readouterr().err


@pytest.mark.parametrize(("table", "known"), [("task", TASKS), ("encoder", ENCODERS)])
def test_a_table_has_a_row_for_each_choice(table: str, known: dict[str, object]) -> None:
    rows = README.partition(f"\n| {table} | ")[2].partition("\n\n")[0].splitlines()
    firsts = [row.split(" | ")[0] for row in rows[2:]]
    assert sorted(name for first in firsts for name in re.findall("`(.+?)`", first)) == sorted(
        known
    )


OF_THE_USER = re.compile(r"s3://|path/to|\b[A-Z]{3,}\b")
"""In a command that needs data or a cluster of the user."""
ENDLESS = {"watch": "serves until it is stopped", "sweep": "takes hours"}
SHORTER = {
    "pretrain": "--data.uri corpus:20 --schedule.length 6 --evaluation.num_clips 8",
    "finetune": "--data.uri corpus:40 --schedule.length 1",
    "embed": "--views.num_clips 1",
    "bench": "--what plan --repeats 1",
}
"""Options that are added to the commands of a job, so that they take seconds."""


def runnable(commands: list[str]) -> list[tuple[str, list[str]]]:
    """Return the job and the arguments of each command that a small machine can run by itself.

    A command that uses the result of one that is left out is left out, too.
    """
    chosen, missing = [], []
    for command in commands:
        path, *arguments = shlex.split(command, comments=True)
        job, text = Path(path).stem, " ".join(arguments)
        if job in ENDLESS or OF_THE_USER.search(text) or any(name in text for name in missing):
            missing += re.findall(r"--(?:name|out) (\S+)", text)
        else:
            chosen.append((job, arguments + SHORTER.get(job, "").split()))
    return chosen


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_the_commands_run_one_after_the_other(
    load_job: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    commands = runnable(commands_of(README))
    assert {job for job, _ in commands} == {
        "pretrain", "preview", "embed", "retrieve", "finetune", "gradcam", "report", "export",
        "runs", "bench",
    }  # fmt: skip
    for job, arguments in commands:
        load_job(job).main(arguments)
    for file in (
        "runs/my-first/encoder.safetensors",
        "runs/my-first/encoder.pt2",
        "preview/clips.gif",
        "retrieval/neighbours.png",
        "runs/first-tuned/scores.json",
        "report/report.html",
    ):
        assert (tmp_path / file).is_file(), file
