"""Options of configs as text: OPTION=VALUE, as given to --set, --grid and --row."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from operator import attrgetter
from typing import Any, TypeVar

import yaml

from ctp.cli import NONE
from ctp.config import Config, merge, options, unflatten
from ctp.report import runs
from ctp.training.run_folder import Uris, absolute

C = TypeVar("C", bound=Config)
OUTER_COMMA = re.compile(r",(?![^\[{]*[\]}])")
"""A comma that is not within brackets."""
NEXT_OPTION = re.compile(r"\s+(?=[\w.]+\s*=)")
"""The space before the next OPTION=VALUE."""
DATA = "data/"
"""Where recipes of scale paper expect their videos."""


def parse_set(text: str) -> tuple[str, Any]:
    """Return the option and the value of OPTION=VALUE; VALUE,VALUE is a list.

    Raises:
        ValueError: the text has another form.
    """
    name, values = _parse("set", text)
    return name, values[0] if len(values) == 1 else values


def parse_grid(text: str) -> tuple[str, list[Any]]:
    """Return the option and the values of OPTION=VALUE,VALUE,…; [VALUE,VALUE] is a list.

    Raises:
        ValueError: the text has another form.
    """
    return _parse("grid", text)


def parse_row(text: str) -> dict[str, Any]:
    """Return the options and values of "OPTION=VALUE OPTION=VALUE …"; VALUE,VALUE is a list.

    Raises:
        ValueError: the text has another form, or names an option twice.
    """
    values: dict[str, Any] = {}
    for part in NEXT_OPTION.split(text.strip()):
        name, found = _parse("row", part)
        if name in values:
            raise ValueError(f"--row {text!r} names {name} twice")
        values[name] = found[0] if len(found) == 1 else found
    return values


def with_values(config: C, changes: Mapping[str, Any], origin: str) -> C:
    """Return a config with other values of some options.

    Where a name chooses another class, as encoder=r2plus1d does, the options that both classes have
    keep their values: a small run stays small.

    Args:
        config: the config.
        changes: dotted option -> value; a single value is taken for a list of one.
        origin: where the values come from, for errors.

    Raises:
        ValueError: an option is unknown or a value does not fit it; names each.
    """
    model, values = type(config), config.model_dump()
    choices = {option.name: option.one_of for option in options(model, values) if option.one_of}
    current = config.flatten()
    try:
        for name, value in changes.items():
            section = name.removesuffix(".name")
            # a YAML list of one is easily written without its brackets
            if isinstance(current.get(name), list) and isinstance(value, int | float):
                value = [value]
            # encoder=r3d and encoder.name=r3d mean the same; merge knows the first
            elif section in choices and isinstance(value, str):
                name = section
            values = merge(model, values, unflatten({name: value}))
        return model.from_values(values)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


def with_located_paths(config: C, names: Collection[str], root: str) -> C:
    """Return a config with absolute locations, those below data/ moved below another folder.

    Args:
        config: the config.
        names: dotted names of its options that are locations.
        root: folder or URI that replaces data/.
    """
    moved = {name: absolute(move_below(attrgetter(name)(config), root)) for name in names}
    return with_values(config, moved, "--data")


def move_below(uri: Uris, root: str) -> Uris:
    """Return a location, or locations, with `root` in place of data/."""
    if isinstance(uri, tuple):
        return tuple(str(move_below(each, root)) for each in uri)
    if uri.startswith(DATA):
        place, mark, query = root.partition("?")  # not opened: there may be no such bucket here
        uri = f"{place.rstrip('/')}/{uri.removeprefix(DATA)}{mark}{query}"
    return uri


def format_value(value: Any) -> str:
    """Return a value of an option as in messages and tables."""
    if isinstance(value, Config):
        return ", ".join(f"{name} {format_value(each)}" for name, each in value.flatten().items())
    return NONE if value is None else runs.format_value(value)


def _parse(option: str, text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"--{option} {text!r}: expected OPTION=VALUE, e.g. task.num_patches=3")
    try:
        found = [yaml.safe_load(part) for part in OUTER_COMMA.split(values) if part.strip()]
    except yaml.YAMLError as error:
        raise ValueError(f"--{option} {text!r}: the values cannot be read: {error}") from error
    if not found:
        raise ValueError(f"--{option} {text!r}: there is no value after the =")
    return name.strip(), [None if value == NONE else value for value in found]
