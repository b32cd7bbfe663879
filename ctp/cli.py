"""The command line of every job: options override a YAML file, which overrides a recipe.

The pydantic models are the one schema of all three. `--print-config` shows the merged config. An
unknown option is an error that names the near miss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Generic, NoReturn, TypeVar

import yaml
from pydantic import Field, create_model
from pydantic_settings import CliSettingsSource

from ctp.config import (
    Config,
    flatten,
    is_no_option,
    is_within,
    merge,
    one_of_field,
    option_names,
    options,
    section_class,
    unflatten,
)
from ctp.lease import LeaseError
from ctp.option_hints import describe_unknown
from ctp.storage import Storage, StorageError
from ctp.text import near_miss

C = TypeVar("C", bound=Config)
HELP_WIDTH = 100
MAIN, ALL = "main", "all"
"""What `--help` lists: the options that most users need, or all."""
NONE = "none"
"""The text for None on the command line."""
FINAL_STATUS = 3
"""Exit status of a job that the same command cannot resume: an option, a video or an encoder is
invalid, or the training cannot continue. A scheduler must not start it again. After status 1 the
same command may succeed; status 2 is that of an invalid command line."""


class CommandLine(Generic[C]):
    """The command line of a job.

    Attributes:
        recipes: name -> function that returns a complete config; `--help` shows the first line of
            its docstring.
        default: the recipe that is used when none is named.
        about: what the job does, for `--help`.
        main_options: the options that `--help` shows, without the two dashes; none: all.
        can_branch: whether there is an option `--from RUN`.
        source: the run that the last `parse` found in `--from`, or None.
        given: dotted names of the options that the last `parse` found in its arguments and file;
            "recipe" if a recipe was named.
    """

    def __init__(
        self,
        recipes: Mapping[str, Callable[[], C]],
        default: str,
        about: str,
        main_options: Sequence[str] = (),
        *,
        can_branch: bool = False,
    ):
        self.recipes, self.default, self.about = recipes, default, about
        self.main_options, self.can_branch = main_options, can_branch
        self.source: str | None = None
        self.given: frozenset[str] = frozenset()

    def parse(self, argv: Sequence[str] | None = None) -> tuple[str, C]:
        """Return the recipe's name, and the config that the arguments describe.

        Prints and exits on `--help`, on `--print-config` and on an error.
        """
        # two passes: --recipe and --config decide which options there are, and which values --help
        # shows
        front = self._front_parser()
        front.add_argument("-h", "--help", nargs="?", const=MAIN, choices=(MAIN, ALL))
        chosen, rest = front.parse_known_args(argv)
        is_named, chosen.recipe = bool(chosen.recipe), chosen.recipe or self.default
        if chosen.recipe not in self.recipes:
            hint = near_miss(chosen.recipe, self.recipes)
            front.error(f"no recipe {chosen.recipe!r}{hint}; there are {', '.join(self.recipes)}")
        recipe = self.recipes[chosen.recipe]()
        model, values = type(recipe), recipe.model_dump()
        try:
            file = _read_yaml(chosen.config) if chosen.config else {}
            values = merge(model, values, file)
            values, rest, named = _choose(model, values, rest)
            values, rest, split = _split(model, values, rest)
            known = option_names(model, values)
            leaves = [each.name for each in options(model, values)]
            unknown = describe_unknown(rest, *([f"--{n}" for n in e] for e in (leaves, known)))
            if unknown:
                raise ValueError(unknown)
            # the whole parser knows these values, so that --help shows them as the defaults
            parser = self._front_parser()
            text = f"show the main options; --help {ALL}: all" if self.main_options else "show this"
            parser.add_argument("-h", "--help", action="help", help=text)
            if self.main_options and chosen.help == MAIN:
                # with --task NAME, also the options of that task
                sections = [each.removesuffix(".name") for each in named]
                parser.shown = {
                    option.name
                    for option in options(model, values)
                    if option.name in self.main_options or is_within(option.name, sections)
                }
            parser.choices = {
                f"--{option.name}": f"{option.help} Choices: {', '.join(option.one_of.choices())}. "
                f"(default: {option.chosen or NONE})"
                for option in options(model, values)
                if option.one_of
            }
            source = CliSettingsSource[Any](
                _with_defaults(model, values),  # type: ignore[arg-type]
                root_parser=parser,
                # only now are the choices known that --help lists
                cli_parse_args=["--help"] if chosen.help else rest,
                # its default is null, which few would guess
                cli_parse_none_str=NONE,
                cli_hide_none_type=True,
                formatter_class=_formatter,
            )
            arguments = _without_none_lists(source())
            config = model.from_values(merge(model, values, arguments))
        except (ValueError, StorageError) as error:
            front.error(str(error))
        self.given = frozenset([*dict(flatten(file)), *dict(flatten(arguments)), *named, *split])
        self.given |= {"recipe"} if is_named else set()
        self.source = chosen.source if self.can_branch else None
        if chosen.print_config:
            print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
            raise SystemExit(0)
        return chosen.recipe, config

    def complete(self, before: Sequence[str]) -> list[str]:
        """Return the words that may follow these arguments, for the completion of a shell.

        They are the values of the last argument if it is an option, none if it takes any value;
        otherwise all options.
        """
        last = before[-1] if before else ""
        given = dict(pairwise(before)).get("--recipe", self.default)
        config = self.recipes.get(given, self.recipes[self.default])()
        model, values = type(config), config.model_dump()
        with suppress(ValueError):
            values, _, _ = _choose(model, values, before[: -1 if last.startswith("-") else None])
        found = {f"--{option.name}": option for option in options(model, values)}
        words = {"--recipe": list(self.recipes), "--help": [ALL], "--config": []}
        words |= {"--from": []} if self.can_branch else {}
        if last in words:
            return words[last]
        if last in found:
            return list(found[last].values)
        return [*words, "--print-config", *found]

    def recipe_line(self, name: str) -> str:
        """Return the first line of a recipe's docstring."""
        return (self.recipes[name].__doc__ or "").strip().splitlines()[0]

    def run(
        self,
        work: Callable[[C], None],
        argv: Sequence[str] | None,
        *errors: type[Exception],
    ) -> None:
        """Parse the arguments and call `work` with the config; print an error in one line.

        Args:
            work: raises ValueError or StorageError if a value cannot be used.
            argv: arguments; None: those of the process.
            errors: other exceptions of `work` that are printed in one line.
        """
        _, config = self.parse(argv)
        expected: tuple[type[Exception], ...] = (ValueError, StorageError, *errors)
        try:
            work(config)
        except expected as error:
            exit_by(error)

    def _front_parser(self) -> _Parser:
        width = max(map(len, self.recipes))
        lines = [f"  {name:{width}}  {self.recipe_line(name)}" for name in self.recipes]
        parser = _Parser(
            usage="%(prog)s [--recipe NAME] [--config FILE] [--OPTION VALUE ...]",
            description=f"{self.about}\n\nrecipes:\n" + "\n".join(lines),
            epilog=f"A section that may be missing is removed by --SECTION {NONE}",
            formatter_class=_formatter,
            allow_abbrev=False,
            add_help=False,
        )
        parser.add_argument("--recipe", help=f"where to start from (default: {self.default})")
        parser.add_argument("--config", metavar="FILE", help="YAML that overrides the recipe")
        if self.can_branch:
            parser.add_argument(
                "--from",
                dest="source",
                metavar="RUN",
                help="start a new run from the checkpoint of this one; options that are not given "
                "are those of that run",
            )
        parser.add_argument(
            "--print-config", action="store_true", help="show the merged config, and stop"
        )
        return parser


def exit_finally(error: Exception) -> NoReturn:
    """Print an error that the same command would raise again, and exit."""
    exit_with(f"error: {error}", FINAL_STATUS, error)


def exit_with(message: str, status: int, cause: Exception | None = None) -> NoReturn:
    """Print a message as an error, and exit."""
    print(message, file=sys.stderr)
    ending = SystemExit(message)  # callers of `main` see the message, the shell the status
    ending.code = status
    raise ending from cause


def exit_by(error: Exception) -> NoReturn:
    """Print an error, and exit; the status says whether the same command may succeed."""
    # of the storage, the network, or a folder that another process holds
    if isinstance(error, OSError | LeaseError):
        raise SystemExit(f"error: {error}") from error
    exit_finally(error)


class _Parser(argparse.ArgumentParser):
    """Names the near miss of an unknown option, and explains fields with `OneOf`.

    Attributes:
        choices: option -> help text, of the fields with `OneOf`.
        shown: options, without the two dashes, that the help lists; none: all.
    """

    choices: Mapping[str, str] = {}
    shown: Collection[str] = ()

    def format_help(self) -> str:
        # here, since pydantic-settings adds the options itself and knows nothing of `OneOf`
        for action in self._actions:
            option = next(iter(action.option_strings), "")
            if option in self.choices:
                action.help, action.metavar, action.nargs = self.choices[option], "NAME", None
            elif (
                option.removesuffix(".name") in self.choices
                or "from JSON string" in (action.help or "")  # a whole section at once
            ):
                action.help = argparse.SUPPRESS
        if self.shown:
            self._hide_others()
        return super().format_help()

    def _hide_others(self) -> None:
        hidden = 0
        for group in self._action_groups:
            for action in group._group_actions:
                name = next(iter(action.option_strings), "").removeprefix("--")
                is_own = name in ("-h", "recipe", "config", "from", "print-config")
                if action.help != argparse.SUPPRESS and not (is_own or name in self.shown):
                    action.help = argparse.SUPPRESS
                    hidden += 1
            group.description = None  # the names say enough, and the list is short
        self.epilog = f"{hidden} more options: --help all\n{self.epilog}"

    def error(self, message: str) -> NoReturn:
        message = message.replace("unrecognized", "options start with --; unexpected")
        self.exit(2, f"error: {message}\nTry {self.prog} --help\n")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=HELP_WIDTH)


def _choose(
    model: type[Config], values: dict[str, Any], argv: Sequence[str]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return the values with the classes that arguments such as `--task NAME` choose, the other
    arguments, and the options that were chosen.

    Raises:
        ValueError: there is no such name.
    """
    # no abbreviations: --enc would be taken for --encoder
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    fields = {o.name: o.one_of for o in options(model, values) if o.one_of}
    for option in fields:
        parser.add_argument(f"--{option}", f"--{option}.name", dest=option)
    chosen, rest = parser.parse_known_args(argv)
    for option, one_of in fields.items():
        name = getattr(chosen, option)
        if name == NONE:
            values = merge(model, values, unflatten({option: None}))
        elif name is not None:
            try:
                one_of.class_of(name)
            except ValueError as error:
                raise ValueError(f"--{option}: {error}") from error
            values = merge(model, values, unflatten({option: name}))
    found = [option for option in fields if getattr(chosen, option) is not None]
    return values, rest, [o if getattr(chosen, o) == NONE else f"{o}.name" for o in found]


def _split(
    model: type[Config], values: dict[str, Any], argv: Sequence[str]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return the values with those of arguments that are split by their own rule, the other
    arguments, and the options that were split.

    pydantic-settings would split them at every comma, also at one inside braces.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    rules = {o.name: o.split_by.split for o in options(model, values) if o.split_by}
    for option in rules:
        parser.add_argument(f"--{option}", dest=option, action="append")
    given, rest = parser.parse_known_args(argv)
    for option, split in rules.items():
        texts = getattr(given, option)
        if texts is not None:
            parts = [part for text in texts for part in split(text)]
            change: list[str] | None = None if parts == [NONE] else parts
            values = merge(model, values, unflatten({option: change}))
    return values, rest, [option for option in rules if getattr(given, option) is not None]


def _without_none_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with None in place of [None], which `--OPTION none` gives for a list."""
    return {
        name: _without_none_lists(value)
        if isinstance(value, Mapping)
        else (None if value == [None] else value)
        for name, value in values.items()
    }


def _with_defaults(model: type[Config], values: Mapping[str, Any]) -> type[Config]:
    """Return a class with the options of `model` and the defaults `values`, for `--help`."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if is_no_option(field):
            continue
        value = values.get(name, field.default)
        section, annotation, default = section_class(field, value), field.annotation, value
        if section is not None and isinstance(value, Mapping):
            # required, so that pydantic-settings shows the defaults of the fields below instead of
            # one of the section
            annotation, default = _with_defaults(section, value), ...
        elif one_of_field(field):
            annotation = str  # nothing is chosen, so there are no further options
        fields[name] = (annotation, Field(default, description=field.description))
    return create_model(model.__name__, __base__=Config, **fields)


def _read_yaml(uri: str) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(Storage.from_uri(uri).read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {uri} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {uri} holds no options; expected lines like 'seed: 1'")
    return values
