"""The base of every config: closed, frozen, validated, and changed only through `replace`."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen pydantic model that refuses unknown fields, so that a typo fails at load."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,  # a field's docstring is its --help
        validate_default=True,
    )

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`, validated again.

        Raises:
            pydantic.ValidationError: a field is unknown or a value does not fit it.
        """
        return type(self).model_validate({**self.model_dump(), **changes})
