"""One schema for recipe, file and options; an error names the near miss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from ctp.cli import CommandLine
from ctp.config import Config, OneOf, merge, options, unflatten
from ctp.data.sources import Sources
from ctp.text import near_miss

MAX_PRETRAIN_OPTIONS = 60
MAX_FINETUNE_OPTIONS = 40


class Inner(Config):
    width: int = 3
    """How wide."""
    sizes: tuple[int, ...] = (1, 2)


class Shape(Config):
    name: str
    colour: str = "red"


class Square(Shape):
    name: Literal["square"] = "square"
    side: int = 1
    """Length of a side."""
    inner: Inner = Inner()


class Circle(Shape):
    name: Literal["circle"] = "circle"
    radius: int = 1
    """Half of the diameter."""


AnyShape = Annotated[Shape, OneOf(lambda: {"square": Square, "circle": Circle})]


class Sourced(Config):
    """Options that name sources."""

    uri: Sources = ()
    test_uri: Sources = "corpus:1"


class Outer(Config):
    seed: int = 0
    inner: Inner = Inner()
    extra: Inner | None = None
    numbers: tuple[int, ...] | None = (1, 2)
    shape: AnyShape = Square()
    """The shape."""
    second: AnyShape | None = None
    """Another shape."""


def plain() -> Outer:
    """The plain one."""
    return Outer()


def wide() -> Outer:
    """The wide one."""
    return Outer(seed=7, inner=Inner(width=30), shape=Square(side=5, colour="blue"))


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
    assert config == wide().replace(seed=8, inner=Inner(width=32, sizes=(4, 5)))


class Numbers(Config):
    """Lists of numbers."""

    shares: tuple[Annotated[float, Ge(0)], float] | None = None
    sizes: tuple[int, ...] = (1, 2)


NUMBERS = CommandLine({"numbers": Numbers}, "numbers", "")


@pytest.mark.parametrize("text", [".3,.7", "0.3, 0.7", "[.3,.7]", "[3e-1, .7]", "+.3,0.70"])
def test_a_list_of_numbers_is_written_as_people_write_numbers(text: str) -> None:
    for argv in (["--shares", text], [f"--shares={text}"]):
        assert NUMBERS.parse(argv)[1].shares == (0.3, 0.7)
    assert NUMBERS.parse(["--sizes", "[]"])[1].sizes == ()
    assert NUMBERS.parse(["--sizes", "1", "--sizes", "2,3"])[1].sizes == (1, 2, 3)
    assert NUMBERS.parse(["--shares", "none"])[1].shares is None


def test_a_list_that_is_no_list_of_numbers_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for text, said in ((".3,half", "shares.1: "), (".3,.3,.4", "shares: ")):
        with pytest.raises(SystemExit):
            NUMBERS.parse(["--shares", text])
        assert f"error: {said}" in capsys.readouterr().err


def test_a_section_can_be_taken_away_and_given() -> None:
    assert LINE.parse(["--extra.width", "5"])[1].extra == Inner(width=5)
    assert LINE.parse(["--extra", "none"])[1].extra is None


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--uri", "a"], "a"),
        (["--uri=a,b"], ("a", "b")),
        (["--uri", "a", "--uri", "b,c"], ("a", "b", "c")),
        (["--uri", "v/{A,B}/*.mp4"], "v/{A,B}/*.mp4"),
        (["--uri", "{A,B}/*.mp4,[[]x]/{0..9},s3://b/c?endpoint_override=h"],
         ("{A,B}/*.mp4", "[[]x]/{0..9}", "s3://b/c?endpoint_override=h")),
        (["--uri", r"red\, blue"], "red, blue"),
        (["--uri", 'say "hi", 12'], ('say "hi"', "12")),
        (["--uri", "[set 1]"], "[set 1]"),
        (["--uri", "12"], "12"),
        ([], ()),
    ],
)  # fmt: skip
def test_sources_are_separated_by_commas_outside_of_braces(
    arguments: list[str], wanted: str | tuple[str, ...]
) -> None:
    line = CommandLine({"default": Sourced}, "default", "about")
    config = line.parse([*arguments, "--test_uri", "{a,b}"])[1]
    assert (config.uri, config.test_uri) == (wanted, "{a,b}")


def test_sources_of_yaml_are_not_split_and_are_in_the_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfuri: a,b\ntest_uri: [c, d]\n")
    line = CommandLine({"default": Sourced}, "default", "about")
    config = line.parse(["--config", str(file)])[1]
    assert (config.uri, config.test_uri) == ("a,b", ("c", "d"))
    for arguments in (["--help"], ["--uri"]):
        with pytest.raises(SystemExit):
            line.parse(arguments)
    printed = capsys.readouterr()
    assert "--test_uri" in printed.out
    assert "--uri" in printed.err
    assert "Try" in printed.err


def test_a_list_can_be_none() -> None:
    assert LINE.parse(["--numbers", "3,4"])[1].numbers == (3, 4)
    assert LINE.parse(["--numbers", "none"])[1].numbers is None
    # an empty one where None is no value
    assert LINE.parse(["--inner.sizes", "none"])[1].inner.sizes == ()
    line = CommandLine({"default": Sourced}, "default", "about")
    assert line.parse(["--test_uri", "none"])[1].test_uri == ()


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
    ("argv", "shape"),
    [
        ([], Square(side=5, colour="blue")),
        (["--shape", "square"], Square(side=5, colour="blue")),
        (["--shape.side", "6"], Square(side=6, colour="blue")),
        (["--shape", "square", "--shape.inner.width", "4"],
         Square(side=5, colour="blue", inner=Inner(width=4))),
        (["--shape", "circle"], Circle(colour="blue")),
        (["--shape=circle", "--shape.radius", "6"], Circle(colour="blue", radius=6)),
        (["--shape.radius", "6", "--shape.name", "circle"], Circle(colour="blue", radius=6)),
    ],
)  # fmt: skip
def test_a_name_chooses_the_class_and_keeps_the_values_that_both_have(
    argv: list[str], shape: Shape
) -> None:
    assert LINE.parse(["--recipe", "wide", *argv])[1].shape == shape


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("shape: circle", Circle(colour="blue")),
        ("shape: square", Square(side=5, colour="blue")),
        ("shape: {name: circle, radius: 8}", Circle(colour="blue", radius=8)),
        ("shape: {side: 8}", Square(side=8, colour="blue")),
    ],
)
def test_a_file_chooses_the_class(text: str, shape: Shape, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    argv = ["--recipe", "wide", "--config", str(file)]
    assert LINE.parse(argv)[1].shape == shape
    assert LINE.parse([*argv, "--shape", "circle", "--shape.radius", "9"])[1].shape == Circle(
        colour="blue", radius=9
    )


def test_an_optional_class_is_chosen_and_removed(tmp_path: Path) -> None:
    assert LINE.parse(["--second", "circle", "--second.radius", "4"])[1].second == Circle(radius=4)
    file = tmp_path / "config.yaml"
    file.write_text("second: circle")
    assert LINE.parse(["--config", str(file)])[1].second == Circle()
    assert LINE.parse(["--config", str(file), "--second", "none"])[1].second is None


def help_text(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        LINE.parse([*argv, "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_help_shows_the_options_of_the_chosen_class(capsys: pytest.CaptureFixture[str]) -> None:
    square = help_text(capsys, "--recipe", "wide")
    assert "--shape.side" in square
    assert "Length of a side. (default: 5)" in square
    assert "--shape.radius" not in square
    assert "Choices: square, circle. (default: square)" in square
    assert "--second NAME" in square
    assert "--second.colour" not in square
    circle = help_text(capsys, "--shape", "circle")
    assert "--shape.radius" in circle
    assert "--shape.side" not in circle


def test_help_is_short_and_help_all_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    line = CommandLine({"plain": plain, "wide": wide}, "plain", "about", ("seed", "shape"))

    def shown(*argv: str) -> list[str]:
        with pytest.raises(SystemExit):
            line.parse(argv)
        return re.findall(r"^  (--[\w.]+)", capsys.readouterr().out, re.MULTILINE)

    front = ["--recipe", "--config", "--print"]
    assert shown("--help") == [*front, "--seed", "--shape"]
    chosen = shown("--shape", "circle", "--help")
    assert chosen == [*front, "--seed", "--shape", "--shape.colour", "--shape.radius"]
    everything = shown("--help", "all")
    assert {f"--{option.name}" for option in options(Outer)} <= set(everything)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe", "wid"], "no recipe 'wid' (did you mean wide?); there are plain, wide"),
        (["--inner.widht", "3"], "there is no option --inner.widht (did you mean --inner.width?)"),
        (["--inner.widt=3"], "there is no option --inner.widt (did you mean --inner.width?)"),
        (["--sede", "1", "--inner", "3"], "(did you mean --seed?)\n  there is no option --inner"),
        (["--seed", "x"], "seed: Input should be a valid integer"),
        (["--config", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
        (["--shape", "circel"],
         "--shape: unknown name 'circel' (did you mean circle?); expected one of square, circle"),
        (["--shape.sied", "3"], "there is no option --shape.sied (did you mean --shape.side?)"),
        (["--shape", "circle", "--shape.raduis", "3"], "(did you mean --shape.radius?)"),
        (["--shape", "circle", "--shape.side", "3"], "there is no option --shape.side"),
        (["--shape.side", "x"], "shape.side: Input should be a valid integer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_reported(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = failed(capsys, *argv)
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("innr: {width: 3}", "there is no option innr (did you mean inner?)"),
        ("inner: {wdth: 3}", "there is no option inner.wdth (did you mean inner.width?)"),
        ("- a\n- b", "holds no options"),
        ("a: [", "is not YAML"),
        ("inner: {width: many}", "inner.width: Input should be a valid integer"),
        ("shape: {raduis: 3, name: circle}", "shape.raduis (did you mean shape.radius?)"),
        ("shape: {name: circel}", "shape: unknown name 'circel' (did you mean circle?)"),
        ("second: {radius: 3}", "second: expected a name (square, circle)"),
    ],
)
def test_a_file_that_does_not_fit_is_reported(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert message in failed(capsys, "--config", str(file))


def test_merge_goes_into_sections() -> None:
    base = Outer().model_dump()
    merged = merge(Outer, base, {"inner": {"width": 4}})
    assert merged == {**base, "inner": {"width": 4, "sizes": (1, 2)}}
    assert merge(Outer, base, {"inner": None}) == {**base, "inner": None}
    assert base == Outer().model_dump()


def test_override_validates() -> None:
    assert Outer().override({"shape": {"side": 2}, "seed": 3}) == Outer(
        shape=Square(side=2), seed=3
    )
    with pytest.raises(ValueError, match=r"no option inner.wdth \(did you mean inner.width"):
        Outer().override({"inner": {"wdth": 2}})


def test_unflatten_is_the_inverse_of_flatten() -> None:
    assert unflatten(Outer().flatten()) == Outer().model_dump(mode="json")


def test_options_are_the_leaves_and_the_names_of_chosen_classes() -> None:
    values: dict[str, Any] = {"shape": {"name": "circle"}}
    assert [option.name for option in options(Outer, values)] == [
        "seed",
        "inner.width",
        "inner.sizes",
        "extra.width",
        "extra.sizes",
        "numbers",
        "shape",
        "shape.colour",
        "shape.radius",
        "second",
    ]


def test_jobs_have_few_options() -> None:
    from ctp.recipes import FINETUNE, PRETRAIN

    for recipes, limit in ((PRETRAIN, MAX_PRETRAIN_OPTIONS), (FINETUNE, MAX_FINETUNE_OPTIONS)):
        for name, make in recipes.items():
            config = make()
            names = [option.name for option in options(type(config), config.model_dump())]
            own = sum(name.startswith("encoder.") for name in names) if recipes is FINETUNE else 0
            assert len(names) - own <= limit, f"recipe {name} has {len(names)} options: {names}"


def test_near_miss() -> None:
    assert near_miss("widht", ["width", "sizes"]) == " (did you mean width?)"
    assert near_miss("zzz", ["width", "sizes"]) == ""
