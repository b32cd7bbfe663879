"""Fields of a config by dotted names: what a text says of them, setting them, reading them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from ctp.cli import describe, merge
from ctp.config import Config

C = TypeVar("C", bound=Config)
NONE = "none"


def parse_set(text: str) -> tuple[str, Any]:
    """Field and value of FIELD=VALUE; VALUE,VALUE is a value of several, as on a command line.

    Raises:
        ValueError: the text is of another form.
    """
    name, values = _parse("set", text)
    return name, values[0] if len(values) == 1 else values


def parse_grid(text: str) -> tuple[str, list[Any]]:
    """Field and values of FIELD=VALUE,VALUE,…; a value of several is [VALUE,VALUE].

    Raises:
        ValueError: the text is of another form.
    """
    return _parse("grid", text)


def with_values(config: C, changes: Mapping[str, Any], said: str) -> C:
    """A config with the values of dotted names.

    Args:
        config: what to change.
        changes: dotted name -> value.
        said: where they are from, for an error.

    Raises:
        ValueError: a field is unknown, or a value does not fit it; names each.
    """
    values = config.model_dump()
    for name, value in changes.items():
        is_one_of_several = isinstance(value, int | float) and isinstance(
            value_of(config, name), list
        )
        values = merge(values, _nested(name, [value] if is_one_of_several else value))
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{said}: {describe(error, type(config))}") from error


def value_of(config: Config, name: str) -> Any:
    """The value of a dotted name, as JSON has it; None where there is no such."""
    value: Any = config.model_dump(mode="json")
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _parse(option: str, text: str) -> tuple[str, list[Any]]:
    name, mark, values = text.partition("=")
    if not mark or not name.strip():
        raise ValueError(f"--{option} {text!r}: wanted FIELD=VALUE, e.g. game.num_patches=3")
    try:
        found = [yaml.safe_load(part) for part in _parts(values) if part.strip()]
    except yaml.YAMLError as error:
        raise ValueError(f"--{option} {text!r}: the values cannot be read: {error}") from error
    if not found:
        raise ValueError(f"--{option} {text!r}: there is no value after the =")
    return name.strip(), [None if value == NONE else value for value in found]


def _parts(text: str) -> list[str]:
    """What stands between the commas that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _nested(name: str, value: Any) -> dict[str, Any]:
    for key in reversed(name.split(".")):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested
