"""The types of a dataclass's fields, from its type hints (PEP 484, PEP 604).

:func:`field_types` returns a :class:`FieldType` for each field: the kinds of value that it may hold, each with the
types of its items. Three users share them: JSON documents (``zsmtp.delivery.valuejson``), tables of TOML
(``zsmtp.client.configfile``), and :func:`check_types`, which checks the values that a program passes::

    field_types(Limits)["connections"].options[0].kind  # int
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from zsmtp.errors import ConfigError


class TypeOption(NamedTuple):
    """One kind of value that a field may hold."""

    kind: Any
    """The class: ``tuple`` for ``tuple[str, ...]``, ``collections.abc.Mapping`` for ``Mapping[str, int]``."""
    items: tuple[FieldType, ...]
    """The item types of a container: one of a tuple or a set, two (keys, values) of a mapping; none otherwise."""


class FieldType(NamedTuple):
    """The type of a field."""

    hint: Any
    """The type as written."""
    options: tuple[TypeOption, ...]
    """The kinds of value, in the order written, without None."""
    optional: bool
    """Whether None is allowed."""

    @property
    def classes(self) -> tuple[type, ...]:
        """The dataclasses among the kinds."""
        from dataclasses import is_dataclass  # checks of values do without

        return tuple(one.kind for one in self.options if isinstance(one.kind, type) and is_dataclass(one.kind))

    def container(self, kind: type) -> TypeOption:
        """The option that holds values of the class ``kind``. Raises LookupError if there is none."""
        for one in self.options:
            if one.items and issubclass(kind, one.kind):
                return one
        raise LookupError(f"{self.hint} holds no {kind.__name__}")


def field_types(owner: type, names: Mapping[str, Any] | None = None) -> dict[str, FieldType]:
    """The types of the fields of ``owner``; ``names`` are names in its hints that its module does not define."""
    hints = get_type_hints(owner, localns=dict(names) if names else None)
    return {name: _field_type(hint) for name, hint in hints.items()}


def check_types(owner: Any) -> None:
    """Raise ConfigError, which names the field, if an instance has a value of a wrong type.

    Items of containers are not checked. An int is accepted for a float. A field whose type is a protocol may hold
    anything.
    """
    for name, kinds in _checked_kinds(owner.__class__).items():
        value = getattr(owner, name)
        if not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds if kind is not NoneType)
            raise ConfigError(f"{name}: {wanted} is expected, not {type(value).__name__}")


def check_least(owner: Any, **least: float) -> None:
    """Raise ConfigError, which names the field, if a number is below its minimum: ``connections=1``."""
    for name, bound in least.items():
        value = getattr(owner, name)
        if not value >= bound:  # NaN is not, either
            raise ConfigError(f"{name}: {value:g} is less than {bound:g}")


@cache
def _checked_kinds(owner: type) -> dict[str, tuple[type, ...]]:
    """The classes of each field, for ``isinstance``."""
    found: dict[str, tuple[type, ...]] = {}
    for name, wanted in field_types(owner).items():
        kinds = tuple(one.kind for one in wanted.options)
        if not any(getattr(kind, "_is_protocol", False) for kind in kinds):
            found[name] = (*kinds, *((int,) if float in kinds else ()), *((NoneType,) if wanted.optional else ()))
    return found


def _field_type(hint: Any) -> FieldType:
    members = tuple(_members(hint))
    options = tuple(_option(one) for one in members if one is not NoneType)
    return FieldType(hint, options, len(options) < len(members))


def _members(hint: Any) -> Iterable[Any]:
    """The members of a union, flat; for other hints the hint itself."""
    if get_origin(hint) not in (Union, UnionType):
        return (hint,)
    return (one for member in get_args(hint) for one in _members(member))


def _option(hint: Any) -> TypeOption:
    kind = get_origin(hint) or hint
    if not (isinstance(kind, type) and issubclass(kind, tuple | frozenset | Mapping)):
        return TypeOption(kind, ())
    return TypeOption(kind, tuple(_field_type(one) for one in get_args(hint) if one is not Ellipsis))
