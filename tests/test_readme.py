"""The README: its commands are accepted, its files exist, and its tables are complete."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from ctp.encoders.registry import ENCODERS
from ctp.pretext.registry import TASKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"\bpython (jobs/\w+\.py[^`\n]*)", README.replace("\\\n", ""))


def test_named_files_exist() -> None:
    named = set(re.findall(r"(?:deploy|jobs|ctp|tests)/[\w/.-]*\w", README))
    assert "ctp/recipes.py" in named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
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
