"""The base of every config: closed, frozen and validated. Functions on the options of a config."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal, NamedTuple, Self, TypeVar, cast, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from ctp.text import near_miss

C = TypeVar("C", bound="Config")
T = TypeVar("T")


@contextmanager
def named_in_errors(option: str) -> Iterator[None]:
    """Begin the ValueErrors inside with the name of an option; "" changes nothing."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {error}" if option else str(error)) from error


class Config(BaseModel):
    """A frozen pydantic model that refuses unknown fields, so that a typo fails at load."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,  # a field's docstring is its --help
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_none_as_empty(cls, values: Any) -> Any:
        """Replace None by () in fields that hold lists and no None: help texts say "none"."""
        if not isinstance(values, Mapping):
            return values
        lists = [name for name, field in cls.model_fields.items() if _is_list(field.annotation)]
        return {**values, **{name: () for name in lists if values.get(name, ...) is None}}

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with `changes`.

        Raises:
            pydantic.ValidationError: a field is unknown or a value does not fit it.
        """
        # sections are passed as they are: dumped ones would lose their class
        values = {name: getattr(self, name) for name in type(self).model_fields}
        # not model_copy, which does not validate
        return type(self).model_validate({**values, **changes})

    def override(self, changes: Mapping[str, Any]) -> Self:
        """Return a validated copy with the nested values of `changes`; see `merge`.

        Raises:
            ValueError: an option is unknown or a value does not fit it; names each.
        """
        return self.from_values(merge(type(self), self.model_dump(), changes))

    @classmethod
    def from_values(cls, values: Any) -> Self:
        """Return the config with nested values, for example those of a YAML file.

        Raises:
            ValueError: an option is unknown or a value does not fit it; names each.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            known = option_names(cls, values if isinstance(values, Mapping) else {})
            raise ValueError(describe(error, known)) from error

    def flatten(self) -> dict[str, Any]:
        """Return all options by their dotted names, as JSON values."""
        return dict(flatten(self.model_dump(mode="json")))


class LazyClasses(MutableMapping[str, type[T]]):
    """Classes by name, each imported when it is looked up.

    Args:
        paths: name -> "module:Class".
    """

    def __init__(self, paths: Mapping[str, str]):
        self._classes: dict[str, type[T] | str] = dict(paths)

    def __getitem__(self, name: str) -> type[T]:
        found = self._classes[name]
        if isinstance(found, str):
            found = self._classes[name] = cast("type[T]", resolve_name(found))
        return found

    def __setitem__(self, name: str, value: type[T]) -> None:
        self._classes[name] = value

    def __delitem__(self, name: str) -> None:
        del self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


class ConfigsOf(Mapping[str, type[C]]):
    """The attribute `Config` of each class of a registry.

    Args:
        registry: the classes by name.
        known: some of the configs, for which no class needs to be imported.
    """

    def __init__(self, registry: Mapping[str, Any], known: Mapping[str, type[C]]):
        self._registry, self._known = registry, known

    def __getitem__(self, name: str) -> type[C]:
        if name in self._known:
            return self._known[name]
        config: type[C] = self._registry[name].Config
        return config

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry)

    def __len__(self) -> int:
        return len(self._registry)


class NotAnOption:
    """Marks a field that the command line does not take: `Annotated[int, NotAnOption()]`.

    Jobs set it, or YAML and Python, for special purposes. `--help` does not list it.
    """


@dataclass(frozen=True)
class SplitBy:
    """Marks a field that the command line gives as a text, which `split` divides into a list."""

    split: Callable[[str], list[str]]


@dataclass(frozen=True)
class OneOf:
    """A field that holds one of several config classes, chosen by the value's `name`.

    Use it as `Annotated[BaseConfig, OneOf(lambda: {"a": AConfig, "b": BConfig})]`. A name alone
    means that class with its defaults. The choices are looked up when a value is validated,
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
        if isinstance(value, Config):  # first: looking up the choices may import their modules
            return value
        values = {"name": value} if isinstance(value, str) else value
        if not isinstance(values, Mapping) or "name" not in values:
            names = ", ".join(self.choices())
            raise ValueError(f"expected a name ({names}) or options with a name")
        return self.class_of(str(values["name"])).model_validate(values)

    def class_of(self, name: str) -> type[Config]:
        """Return the config class of a name.

        Raises:
            ValueError: there is no such name.
        """
        choices = self.choices()
        if name not in choices:
            hint = near_miss(name, choices)
            raise ValueError(f"unknown name {name!r}{hint}; expected one of {', '.join(choices)}")
        return choices[name]


class Option(NamedTuple):
    """An option of a config.

    Attributes:
        name: its dotted name.
        help: its docstring.
        one_of: the classes that it chooses from by name, or None.
        chosen: name of the class that is chosen, or None.
        split_by: how the command line divides its text, or None.
        values: its values if there are few, otherwise [].
    """

    name: str
    help: str
    one_of: OneOf | None = None
    chosen: str | None = None
    split_by: SplitBy | None = None
    values: Sequence[str] = ()


def options(
    model: type[Config], values: Mapping[str, Any] | None = None, prefix: str = ""
) -> Iterator[Option]:
    """Yield the options of a config, those of its sections in their place.

    A field with `OneOf` is an option, followed by those of the class that it chooses.

    Args:
        model: class of the config.
        values: nested values that choose classes; the rest is as by default.
        prefix: of the names.
    """
    for name, field in model.model_fields.items():
        if is_no_option(field):
            continue
        full, one_of = prefix + name, one_of_field(field)
        value = (values or {}).get(name, field.default)
        if isinstance(value, Config):
            value = value.model_dump()
        section = section_class(field, value)
        if section is None or one_of:
            chosen = value["name"] if one_of and section and isinstance(value, Mapping) else None
            split_by = next((each for each in field.metadata if isinstance(each, SplitBy)), None)
            if split_by is None and _is_numbers(field.annotation):
                split_by = SplitBy(split_numbers)
            few = list(one_of.choices()) if one_of else _values(field.annotation)
            yield Option(full, field.description or "", one_of, chosen, split_by, few)
        if section is not None:
            below = options(section, value if isinstance(value, Mapping) else {}, f"{full}.")
            # the name is given as the value of the field itself
            yield from (each for each in below if not (one_of and each.name == f"{full}.name"))


def _is_list(annotation: Any) -> bool:
    """Return whether a field's values are tuples of any length, or such tuples and texts."""
    kinds = [annotation] if get_origin(annotation) is tuple else list(get_args(annotation))
    return type(None) not in kinds and any(
        get_origin(kind) is tuple and ... in get_args(kind) for kind in kinds
    )


def split_numbers(text: str) -> list[str]:
    """Return the parts of a list of numbers, as in 1,2 or [1, 2].

    As JSON, in which pydantic-settings reads lists, .5 would be no number.
    """
    inside = text.strip().removeprefix("[").removesuffix("]")
    return [part.strip() for part in inside.split(",")] if inside.strip() else []


def _is_numbers(annotation: Any) -> bool:
    """Return whether a field's values are tuples of numbers, or such tuples and None."""
    if get_origin(annotation) is not tuple:
        kinds = [each for each in get_args(annotation) if each is not type(None)]
        return len(kinds) == 1 and _is_numbers(kinds[0])
    kinds = [each for each in get_args(annotation) if each is not ...]
    return all((get_args(kind) or (kind,))[0] in (int, float) for kind in kinds)


def _values(annotation: Any) -> list[str]:
    """Return the values of an annotation, if it is bool, a Literal, or one of them or None."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for each in get_args(annotation) for value in _values(each)]


def option_names(model: type[Config], values: Mapping[str, Any] | None = None) -> list[str]:
    """Return the dotted names of all options of a config and of its sections."""
    names: dict[str, None] = {}
    for option in options(model, values):
        parts = option.name.split(".")
        names |= dict.fromkeys(".".join(parts[: i + 1]) for i in range(len(parts)))
    return list(names)


def is_no_option(field: FieldInfo) -> bool:
    """Return whether a field is marked as `NotAnOption`."""
    return any(isinstance(each, NotAnOption) for each in field.metadata)


def one_of_field(field: FieldInfo) -> OneOf | None:
    """Return the `OneOf` that a field is annotated with, or None."""
    kinds = getattr(field.annotation, "__args__", ())  # of `Annotated[...] | None`
    inner = [each for kind in kinds for each in getattr(kind, "__metadata__", ())]
    return next((each for each in (*field.metadata, *inner) if isinstance(each, OneOf)), None)


def section_class(field: FieldInfo, value: Any) -> type[Config] | None:
    """Return the class of the config that a field holds, or None for another field.

    Args:
        field: the field.
        value: its value, a config or nested values; chooses the class of a field with `OneOf`.
    """
    one_of = one_of_field(field)
    if one_of is not None:
        name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", value)
        return one_of.choices().get(str(name))
    # the class itself, or that of `Section | None`
    kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Config)), None)


def merge(
    model: type[Config], base: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return nested values of a config, overridden by `changes` section by section.

    If a field with `OneOf` gets another name, the options that both classes have keep their values:
    a small encoder stays small.
    """
    merged = dict(base)
    for key, value in changes.items():
        field, below = model.model_fields.get(key), base.get(key)
        if field and one_of_field(field) and isinstance(value, str):
            value = {"name": value}
        if field and isinstance(below, Mapping) and isinstance(value, Mapping):
            section = section_class(field, {**below, **value})
            if section:
                # the class may have changed, and with it the options there are
                below = {name: each for name, each in below.items() if name in section.model_fields}
                value = merge(section, below, value)
        merged[key] = value
    return merged


def keep_stored(config: C, stored: Mapping[str, Any], given: Iterable[str]) -> C:
    """Return the config with stored values instead of those that were not given.

    Args:
        config: given options over today's defaults.
        stored: nested values of the same class, which may lack some.
        given: dotted names of the options, or of sections, that keep the value of `config`.

    Raises:
        ValueError: the values do not fit together.
    """
    model, given = type(config), list(given)
    ours = {n: v for n, v in flatten(config.model_dump()) if is_within(n, given)}
    values = merge(model, config.model_dump(), stored)
    return config.from_values(merge(model, values, unflatten(ours)))


def describe_kept(config: Config, kept: Config, origin: str) -> list[str]:
    """Return a line for each option that `keep_stored` changed.

    Args:
        config: the config before.
        kept: what `keep_stored` returned.
        origin: where the stored values are.
    """
    ours, theirs = config.flatten(), kept.flatten()
    return [
        f"{name} stays {value!r}, as {origin} has it; the default is now {ours.get(name)!r}"
        for name, value in theirs.items()
        # None is decided by the job, such as the encoder of a file
        if value != ours.get(name) and not is_within(name, [n for n in ours if ours[n] is None])
    ]


def is_within(option: str, sections: Iterable[str]) -> bool:
    """Return whether a dotted option is one of `sections`, or part of one."""
    return any(option == each or option.startswith(f"{each}.") for each in sections)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, each with its dotted name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


class Difference(NamedTuple):
    """An option, by its dotted name, that has different values in two configs."""

    name: str
    here: object
    there: object

    def __str__(self) -> str:
        return f"{self.name} was {self.there!r}, is {self.here!r}"


def differences(
    here: object, there: object, ignored: Collection[str] = (), name: str = ""
) -> Iterator[Difference]:
    """Yield where the nested values of two configs differ.

    Args:
        here, there: values as returned by `model_dump`.
        ignored: dotted names of options, and of sections, to leave out.
        name: dotted name of the section that they belong to.
    """
    if isinstance(here, dict) and isinstance(there, dict):
        for key in here | there:
            below = f"{name}.{key}" if name else key
            if below not in ignored:
                yield from differences(here.get(key), there.get(key), ignored, below)
    elif here != there:
        yield Difference(name, here, there)


def unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings of values with dotted names, the inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        section = nested
        for each in sections:
            section = section.setdefault(each, {})
        section[last] = value
    return nested


def describe(error: ValidationError, names: list[str]) -> str:
    """Return a line for each value that does not fit; for an unknown option with its near miss."""
    lines = []
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        message, value = problem["msg"].removeprefix("Value error, "), problem["input"]
        if problem["type"] == "extra_forbidden":
            lines.append(f"there is no option {name}{near_miss(name, names)}")
        elif not name:
            lines.append(message)
        else:
            is_shown = not isinstance(value, Mapping) and repr(value) not in message
            lines.append(f"{name}: {message}" + (f", got {value!r}" if is_shown else ""))
    return "\n  ".join(lines)
