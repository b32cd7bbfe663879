"""The command line of every job: a recipe, a YAML file over it, dotted options over both.

One schema serves all three and the notebook: the pydantic models. `--print-config` shows what
they come to; whatever does not fit is an error that names the near miss.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar

import yaml
from pydantic import ValidationError, create_model
from pydantic_settings import CliSettingsSource

from ctp.config import Config
from ctp.storage import Storage, StorageError
from ctp.text import near_miss

C = TypeVar("C", bound=Config)
HELP_WIDTH = 100


class CommandLine(Generic[C]):
    """The command line of a job whose config is of one class.

    Attributes:
        recipes: name -> function that returns a complete config; the first line of its docstring
            is what `--help` says of it.
        default: the recipe that is used when none is named.
        about: what the job does, for `--help`.
    """

    def __init__(self, recipes: Mapping[str, Callable[[], C]], default: str, about: str):
        self.recipes, self.default, self.about = recipes, default, about

    def parse(self, argv: Sequence[str] | None = None) -> tuple[str, C]:
        """The recipe's name, and the config that the arguments come to.

        Prints and exits on `--help` and `--print-config`, and with an error on what does not fit.
        """
        front = self._front_parser(add_help=False)
        front.add_argument("-h", "--help", action="store_true")
        chosen, rest = front.parse_known_args(argv)
        if chosen.recipe not in self.recipes:
            hint = near_miss(chosen.recipe, self.recipes)
            front.error(f"no recipe {chosen.recipe!r}{hint}; there are {', '.join(self.recipes)}")
        recipe = self.recipes[chosen.recipe]()
        # the whole parser knows the recipe's values, so that --help shows them as the defaults
        parser = self._front_parser(add_help=True)
        source = CliSettingsSource[Any](
            type(_with_defaults(recipe)),  # type: ignore[arg-type]
            root_parser=parser,
            cli_parse_args=["--help"] if chosen.help else rest,
            cli_parse_none_str="none",
            cli_hide_none_type=True,
            formatter_class=_formatter,
        )
        values = recipe.model_dump()
        try:
            if chosen.config:
                values = merge(values, _read_yaml(chosen.config))
            config = type(recipe).model_validate(merge(values, source()))
        except ValidationError as error:
            parser.error(describe(error, type(recipe)))
        except (ValueError, StorageError) as error:
            parser.error(str(error))
        if chosen.print_config:
            print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
            raise SystemExit(0)
        return chosen.recipe, config

    def _front_parser(self, *, add_help: bool) -> argparse.ArgumentParser:
        width = max(map(len, self.recipes))
        lines = [
            f"  {name:{width}}  {(make.__doc__ or '').strip().splitlines()[0]}"
            for name, make in self.recipes.items()
        ]
        parser = _Parser(
            usage="%(prog)s [--recipe NAME] [--config FILE] [--OPTION VALUE ...]",
            description=f"{self.about}\n\nrecipes:\n" + "\n".join(lines),
            epilog="A section that may be missing is taken away by 'none': --SECTION none",
            formatter_class=_formatter,
            allow_abbrev=False,
            add_help=add_help,
        )
        parser.add_argument(
            "--recipe", default=self.default, help=f"where to start from (default: {self.default})"
        )
        parser.add_argument("--config", metavar="FILE", help="YAML that overrides the recipe")
        parser.add_argument(
            "--print-config", action="store_true", help="show what all this comes to, and stop"
        )
        return parser


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def describe(error: ValidationError, model: type[Config]) -> str:
    """What does not fit, a line for each option; a misspelt one names its near miss."""
    lines = []
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            lines.append(f"there is no option {name}{near_miss(name, option_names(model))}")
        else:
            shown = name and not isinstance(problem["input"], Mapping)
            came = f", got {problem['input']!r}" if shown else ""
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {message}{came}" if name else message)
    return "\n  ".join(lines)


def option_names(model: type[Config], prefix: str = "") -> list[str]:
    """The dotted names of all fields of a config, sections and what is in them."""
    names = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, Config):
                names += option_names(kind, f"{prefix}{name}.")
    return names


class _Parser(argparse.ArgumentParser):
    """Says for an unknown option which one was probably meant, and nothing else."""

    def format_help(self) -> str:
        for action in self._actions:
            if "from JSON string" in (action.help or ""):  # a whole section at once: clutter
                action.help = argparse.SUPPRESS
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            option = unknown.split()[0].partition("=")[0]
            options = [name for name in self._option_string_actions if name.startswith("--")]
            message = f"there is no option {option}{near_miss(option, options)}"
        self.exit(2, f"error: {message}\nTry {self.prog} --help\n")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=HELP_WIDTH)


def _with_defaults(config: C) -> C:
    """A config of a class whose defaults are the values of `config`."""
    fields: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        shown = copy.copy(field)
        shown.default = getattr(config, name)
        fields[name] = (field.annotation, shown)
    return create_model(type(config).__name__, __base__=type(config), **fields)()


def _read_yaml(uri: str) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(Storage.of(uri).read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {uri} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {uri} holds no options; wanted lines like 'seed: 1'")
    return values
