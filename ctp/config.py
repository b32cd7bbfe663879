"""The base of every config: closed, frozen and validated, and changed only through `replace`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ctp.text import near_miss


class Config(BaseModel):
    """A frozen pydantic model that refuses unknown fields, so that a typo fails at load."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,  # a field's docstring is its --help
        validate_default=True,
    )

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with `changes`.

        Raises:
            pydantic.ValidationError: a field is unknown or a value does not fit it.
        """
        # sections are passed as they are: dumped ones would lose their class
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate({**values, **changes})

    def flatten(self) -> dict[str, Any]:
        """Return all options by their dotted names, as JSON values."""
        return dict(flatten(self.model_dump(mode="json")))


@dataclass(frozen=True)
class OneOf:
    """A field that holds one of several config classes, chosen by the value's `name`.

    Use it as `Annotated[BaseConfig, OneOf(lambda: {"a": AConfig, "b": BConfig})]`. A name alone
    stands for that class with its defaults. The choices are looked up when a value is validated,
    so that a registry may grow.

    Attributes:
        choices: returns name -> config class. Each class has a field `name` with that default.
    """

    choices: Callable[[], Mapping[str, type[Config]]]

    def __get_pydantic_core_schema__(
        self, source: type[Config], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def serialize(value: Any, info: core_schema.SerializationInfo) -> Any:
            return value.model_dump(mode=info.mode)  # with the fields of its own class

        return core_schema.no_info_plain_validator_function(
            self.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                serialize, info_arg=True
            ),
        )

    def parse(self, value: Any) -> Any:
        """Return `value`, a config, a mapping with a "name", or a name, as a config.

        Raises:
            ValueError: there is no such name, or a field does not fit.
        """
        choices = self.choices()
        if isinstance(value, Config):
            return value
        values = {"name": value} if isinstance(value, str) else value
        if not isinstance(values, Mapping) or "name" not in values:
            raise ValueError(f"expected a name ({', '.join(choices)}) or options with a name")
        name = values["name"]
        if name not in choices:
            hint = near_miss(str(name), choices)
            raise ValueError(f"unknown name {name!r}{hint}; expected one of {', '.join(choices)}")
        return choices[name].model_validate(values)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, each with its dotted name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
