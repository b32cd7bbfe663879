"""The command `ctp`: its jobs, what `--help` imports, and the completion in a shell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from ctp.commands.main import JOBS, main

ROOT = Path(__file__).parents[1]
JOB_FILES = {path.stem for path in (ROOT / "jobs").glob("*.py")}
WITHOUT_TORCH = """
import contextlib, io, sys
from importlib import import_module

for name in sys.argv[1:]:
    job = import_module(f"ctp.commands.{name}").main
    verb = ["list"] if name == "runs" else []
    for argv in (["--help"], ["--help", "all"], ["--print-config"], ["--lr", "1"]):
        try:
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                job([*verb, *argv])
        except SystemExit as end:
            assert end.code == (2 if argv[0] == "--lr" else 0) or not end.code, (name, argv)
        heavy = {"torch", "ray", "matplotlib"}.intersection(sys.modules)
        assert not heavy, (name, argv, heavy)
print("done")
"""


def test_every_job_file_is_a_job_of_the_command() -> None:
    assert {name.replace("-", "_") for name in JOBS} == JOB_FILES


def test_the_package_installs_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert resolve_name(project["scripts"]["ctp"]) is main


def test_help_and_errors_of_options_need_neither_torch_nor_ray(
    run_python: Callable[..., str],
) -> None:
    assert run_python("-c", WITHOUT_TORCH, *sorted(JOB_FILES)).strip() == "done"


def test_help_has_a_line_for_each_job() -> None:
    lines = CliRunner().invoke(main, ["--help"]).output.splitlines()
    for name in JOBS:
        about = import_module(f"ctp.commands.{name.replace('-', '_')}").__doc__
        assert about is not None
        assert f"  {name:12}  {about.splitlines()[0]}" in lines


@pytest.mark.parametrize("name", JOBS)
def test_help_is_short_and_its_recipes_are_sentences(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module(f"ctp.commands.{name.replace('-', '_')}")
    for command in getattr(module, "COMMANDS", {"": getattr(module, "COMMAND", None)}).values():
        assert all(command.recipe_line(recipe).endswith(".") for recipe in command.recipes)
        with pytest.raises(SystemExit):
            command.parse(["--help"])
        shown = capsys.readouterr().out
        assert len(re.findall(r"^  --", shown, re.MULTILINE)) <= 25


def test_a_job_gets_its_arguments_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ctp"])
    for name in ("build-shards", "build_shards"):
        with pytest.raises(SystemExit) as ended:
            main([name, "--source=a, b", "--limit", "3", "--print-config"])
        assert ended.value.code == 0
        printed = capsys.readouterr().out
        assert "limit: 3" in printed
        assert "source: a, b" in printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pretrian"], "no job 'pretrian' (did you mean pretrain?)"),
        (["pretrain", "--sede", "1"], "did you mean --seed?"),
    ],
)
def test_an_unknown_job_or_option_is_an_error(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["ctp"])
    ended = CliRunner().invoke(main, argv)
    assert ended.exit_code == 2
    assert message in ended.output


def test_the_version_is_that_of_the_package() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.startswith("ctp 0.1")


@pytest.mark.parametrize(
    ("before", "incomplete", "expected"),
    [
        ([], "pre", ["pretrain", "preview"]),
        (["runs"], "s", ["show"]),
        (["runs", "prune"], "--k", ["--keep"]),
        (["pretrain"], "--data.held", ["--data.heldout_uri", "--data.heldout_share"]),
        (["pretrain", "--recipe"], "ti", ["tiny"]),
        (["pretrain", "--recipe", "tiny"], "--see", ["--seed"]),
        (["pretrain", "--task"], "m", ["memdpc", "moco"]),
        (["pretrain", "--task", "moco"], "--task.q", ["--task.queue_size"]),
        (["pretrain", "--scaling.use_gpu"], "", ["true", "false"]),
        (["finetune", "--protocol"], "", ["finetune", "linear", "attentive"]),
    ],
)
def test_words_are_completed(before: list[str], incomplete: str, expected: list[str]) -> None:
    complete = BashComplete(main, {}, "ctp", "_CTP_COMPLETE")
    assert [item.value for item in complete.get_completions(before, incomplete)] == expected


def test_a_path_is_completed_by_the_shell() -> None:
    complete = BashComplete(main, {}, "ctp", "_CTP_COMPLETE")
    assert [item.type for item in complete.get_completions(["pretrain", "--data.uri"], "")] == [
        "file"
    ]


@pytest.mark.parametrize(
    ("before", "incomplete", "expected"),
    [
        (["report", "--runs"], "", ["first", "second", ""]),
        (["finetune", "--recipe", "small", "--initial"], "s", ["second", "s"]),
        (["watch"], "f", ["first"]),
        (["runs", "show"], "f", ["first"]),
        (["preview", "--storage", "others", "--run"], "", ["third", ""]),
        (["pretrain", "--encoder"], "s", ["s3d", "swin3d_t"]),
    ],
)
def test_names_of_local_runs_are_completed(
    before: list[str],
    incomplete: str,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("runs/first", "runs/second", "others/third"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("")
    (tmp_path / "runs" / "features").mkdir()
    monkeypatch.chdir(tmp_path)
    complete = BashComplete(main, {}, "ctp", "_CTP_COMPLETE")
    found = [item.value for item in complete.get_completions(before, incomplete)]
    assert found == expected
