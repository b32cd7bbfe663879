"""One schema for recipe, file and options; what does not fit names the near miss."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp.cli import CommandLine, merge
from ctp.config import Config
from ctp.text import near_miss


class Inner(Config):
    width: int = 3
    """How wide."""
    sizes: tuple[int, ...] = (1, 2)


class Outer(Config):
    seed: int = 0
    inner: Inner = Inner()
    extra: Inner | None = None


def plain() -> Outer:
    """The plain one."""
    return Outer()


def wide() -> Outer:
    """The wide one."""
    return Outer(seed=7, inner=Inner(width=30))


LINE = CommandLine({"plain": plain, "wide": wide}, "plain", "Does nothing, well.")


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        LINE.parse(list(argv))
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_recipe_then_file_then_options(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("seed: 8\ninner: {width: 31}\n")
    assert LINE.parse([]) == ("plain", plain())
    assert LINE.parse(["--recipe", "wide"]) == ("wide", wide())
    name, config = LINE.parse(
        ["--recipe", "wide", "--config", str(file), "--inner.width", "32", "--inner.sizes", "4,5"]
    )
    assert name == "wide"
    assert config == Outer(seed=8, inner=Inner(width=32, sizes=(4, 5)))


def test_a_section_can_be_taken_away_and_given() -> None:
    assert LINE.parse(["--extra.width", "5"])[1].extra == Inner(width=5)
    assert LINE.parse(["--extra", "none"])[1].extra is None


def test_print_config_gives_a_file_that_gives_the_same_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        LINE.parse(["--recipe", "wide", "--seed", "9", "--print-config"])
    assert not exit_.value.code
    file = tmp_path / "config.yaml"
    file.write_text(capsys.readouterr().out)
    assert LINE.parse(["--config", str(file)])[1] == wide().replace(seed=9)


def test_help_shows_recipes_fields_and_the_recipes_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        LINE.parse(["--recipe", "wide", "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert "Does nothing, well." in shown
    assert "wide   The wide one." in shown
    assert "--inner.width int" in shown
    assert "How wide. (default: 30)" in shown


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--recipe", "wid"], "no recipe 'wid' (did you mean wide?); there are plain, wide"),
        (["--inner.widht", "3"], "there is no option --inner.widht (did you mean --inner.width?)"),
        (["--inner.widt=3"], "there is no option --inner.widt (did you mean --inner.width?)"),
        (["--seed", "x"], "seed: Input should be a valid integer"),
        (["--config", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
    ],
)
def test_what_does_not_fit_is_said(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = failed(capsys, *argv)
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("innr: {width: 3}", "there is no option innr (did you mean inner?)"),
        ("inner: {wdth: 3}", "there is no option inner.wdth (did you mean inner.width?)"),
        ("- a\n- b", "holds no options"),
        ("a: [", "is not YAML"),
        ("inner: {width: many}", "inner.width: Input should be a valid integer"),
    ],
)
def test_a_file_that_does_not_fit_is_said(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert said in failed(capsys, "--config", str(file))


def test_merge_goes_into_sections() -> None:
    base = {"a": 1, "b": {"c": 2, "d": 3}}
    assert merge(base, {"b": {"c": 4}}) == {"a": 1, "b": {"c": 4, "d": 3}}
    assert merge(base, {"b": None}) == {"a": 1, "b": None}
    assert base == {"a": 1, "b": {"c": 2, "d": 3}}


def test_near_miss() -> None:
    assert near_miss("widht", ["width", "sizes"]) == " (did you mean width?)"
    assert near_miss("zzz", ["width", "sizes"]) == ""
