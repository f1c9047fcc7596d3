"""Converts values to JSON and back: frozen dataclasses, by their type hints, under a versioned schema.

:class:`Schema` defines the documents of one kind: ``{"schema": "zsmtp.plan/1", ...}`` and the fields of the root class.
An object has the field names of its value; one that may be of several classes names its class in ``type``. Enums are
their words, tuples are lists, octets are hexadecimal digits, or for texts (TXT records, MTA-STS policies) strings of
one character for each octet. A mapping is a list of objects with ``key`` and ``value``.

Reading is strict: wrong types, unknown names and failed checks are refused with a :class:`~zsmtp.errors.ConfigError`
that names the place (``route.candidates[0].endpoint.port``). A missing field has its default, if there is one: later
versions of a schema may add only such fields.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.fieldtypes import FieldType, TypeOption, field_types

MAX_DOCUMENT = 8 << 20  # characters
MAX_ITEMS = 20_000  # of one list
MAX_NUMBER = 1 << 53  # beyond it, JSON readers disagree


@dataclass(frozen=True, slots=True)
class Schema:
    """Documents of schema ``name`` hold values of class ``root``; errors call them ``noun``.

    ``names`` are types that a class only names in its hints, to save the import. ``texts`` are the fields whose octets
    are text for people. ``checks`` return the error in a value of a class, or None. ``tags`` are the words of ``type``
    for classes, if not their names. ``left_out`` are fields that always have their default in a document.
    """

    name: str
    root: type
    noun: str
    names: Mapping[type, dict[str, Any]] = field(default_factory=dict)
    texts: frozenset[tuple[type, str]] = frozenset()
    checks: Mapping[type, Callable[[Any], str | None]] = field(default_factory=dict)
    tags: Mapping[type, str] = field(default_factory=dict)
    left_out: frozenset[tuple[type, str]] = frozenset()
    _known_types: dict[type, dict[str, FieldType]] = field(default_factory=dict)

    def document(self, value: Any) -> dict[str, Any]:
        """The value as a JSON object, for ``json.dumps``."""
        return {"schema": self.name, **self._encode_object(value)}

    def read(self, document: object) -> Any:
        """The value in a JSON object. Raises ConfigError if it is invalid."""
        if not isinstance(document, dict):
            raise ConfigError(f"not {self.noun}: {_kind(document)} instead of an object")
        if document.get("schema") != self.name:
            found = document.get("schema")
            found_schema = f"schema '{escape(found[:80])}'" if isinstance(found, str) else "no schema"
            raise ConfigError(f"not {self.noun} of {self.name}: {found_schema}")
        members = {name: value for name, value in document.items() if name != "schema"}
        try:
            return self._decode_object(self.root, members, "")
        except RecursionError:
            raise ConfigError(f"not {self.noun} of {self.name}: nested too deeply") from None

    def _types(self, kind: type) -> dict[str, FieldType]:
        """The types of a class's fields."""
        if kind not in self._known_types:
            self._known_types[kind] = field_types(kind, self.names.get(kind))
        return self._known_types[kind]

    def _encode_object(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        types = self._types(kind)
        return {
            one.name: self._encode(types[one.name], getattr(value, one.name), text=(kind, one.name) in self.texts)
            for one in fields(value)
            if (kind, one.name) not in self.left_out
        }

    def _encode(self, kind: FieldType, value: Any, *, text: bool) -> Any:
        if value is None or type(value) in _SCALARS:
            return value
        if is_dataclass(value):
            tag = {"type": self._tag(type(value))} if len(kind.classes) > 1 else {}
            return tag | self._encode_object(value)
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, bytes):
            return value.decode("latin-1") if text else value.hex()
        if isinstance(value, tuple | frozenset):
            item = kind.container(type(value)).items[0]
            return [
                self._encode(item, one, text=text) for one in (sorted(value) if isinstance(value, frozenset) else value)
            ]
        if isinstance(value, dict):
            of_keys, of_values = kind.container(dict).items
            return [
                {"key": self._encode(of_keys, key, text=text), "value": self._encode(of_values, one, text=text)}
                for key, one in value.items()
            ]
        return value

    def _decode_object(self, kind: type, members: dict[str, Any], where: str) -> Any:
        types = self._types(kind)
        known = [one for one in fields(kind) if (kind, one.name) not in self.left_out]
        unknown = sorted(members.keys() - {one.name for one in known})
        if unknown:
            raise self._wrong(f"{where}.{escape(unknown[0][:80])}", f"nothing known to a {kind.__name__}")
        values = {}
        for one in known:
            place = f"{where}.{one.name}"
            if one.name in members:
                text = (kind, one.name) in self.texts
                values[one.name] = self._decode(types[one.name], members[one.name], place, text=text)
            elif one.default is MISSING and one.default_factory is MISSING:
                raise self._wrong(place, "missing")
        value = kind(**values)
        check = self.checks.get(kind)
        problem = check(value) if check is not None else None
        if problem is not None:
            raise self._wrong(where, problem)
        return value

    def _decode(self, kind: FieldType, value: Any, where: str, *, text: bool) -> Any:
        if value is None and kind.optional:
            return None
        if isinstance(value, dict):
            return self._decode_object(*self._class_of(kind, value, where), where)
        for option in kind.options:
            if isinstance(value, list) and option.kind in (tuple, frozenset, dict):
                return self._decode_list(option, value, where, text=text)
            if isinstance(option.kind, type) and issubclass(option.kind, Enum):
                return self._decode_word(option.kind, value, where)
            if option.kind in _SCALARS and _SCALARS[option.kind](value):
                return float(value) if option.kind is float else value
            if option.kind is bytes and isinstance(value, str):
                return self._decode_octets(value, where, text=text)
        raise self._wrong(where, f"{_kind(value)} is not valid here")

    def _tag(self, kind: type) -> str:
        return self.tags.get(kind, kind.__name__)

    def _class_of(self, kind: FieldType, value: dict[str, Any], where: str) -> tuple[type, dict[str, Any]]:
        """The class of an object whose type allows several, and its members without the tag."""
        classes = {self._tag(one): one for one in kind.classes}
        if len(classes) == 1:
            return next(iter(classes.values())), value
        if not classes:
            raise self._wrong(where, "an object is not valid here")
        tag = value.get("type")
        if not isinstance(tag, str) or tag not in classes:
            raise self._wrong(f"{where}.type", f"none of {', '.join(classes)}")
        return classes[tag], {name: member for name, member in value.items() if name != "type"}

    def _decode_list(self, option: TypeOption, value: list[Any], where: str, *, text: bool) -> Any:
        if len(value) > MAX_ITEMS:
            raise self._wrong(where, f"more than {MAX_ITEMS} items")
        if option.kind is not dict:
            item = option.items[0]
            return option.kind(
                self._decode(item, one, f"{where}[{number}]", text=text) for number, one in enumerate(value)
            )
        of_keys, of_values = option.items
        found = {}
        for number, pair in enumerate(value):
            place = f"{where}[{number}]"
            if not isinstance(pair, dict) or pair.keys() != {"key", "value"}:
                raise self._wrong(place, "not an object of key and value")
            key = self._decode(of_keys, pair["key"], f"{place}.key", text=text)
            if key in found:
                raise self._wrong(f"{place}.key", "there twice")
            found[key] = self._decode(of_values, pair["value"], f"{place}.value", text=text)
        return found

    def _decode_word(self, kind: type[Enum], value: Any, where: str) -> Enum:
        for member in kind:
            if isinstance(value, str) and member.value == value:
                return member
        raise self._wrong(where, f"none of {', '.join(str(member.value) for member in kind)}")

    def _decode_octets(self, value: str, where: str, *, text: bool) -> bytes:
        try:
            return value.encode("latin-1") if text else bytes.fromhex(value)
        except ValueError:
            raise self._wrong(where, "not octets" if text else "not hexadecimal digits") from None

    def _wrong(self, where: str, problem: str) -> ConfigError:
        place = where.removeprefix(".") or "the document"
        return ConfigError(f"not {self.noun} of {self.name}: {place}: {problem}")


def parse_json(text: str | bytes) -> object:
    """The value in a JSON text (RFC 8259). Raises ConfigError with the place of the error."""
    if len(text) > MAX_DOCUMENT:
        raise ConfigError(f"longer than {MAX_DOCUMENT} characters")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ConfigError("not JSON that can be read: nested too deeply") from None
    except ValueError as error:  # not UTF-8; NaN; a number of thousands of digits
        raise ConfigError(f"not JSON: {escape(str(error))[:200]}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


_SCALARS: dict[Any, Callable[[object], bool]] = {
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    int: _is_number,
    float: lambda value: _is_number(value) or (isinstance(value, float) and math.isfinite(value)),
}


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
