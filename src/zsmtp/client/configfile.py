"""Reads a :class:`~zsmtp.client.config.Config` from a TOML file; keys are names of fields, tables nested values::

    helo_name = "out.example.org"
    relay = "smtp://mail.example.org"        # or a table: [relay] host = ..., [relay.login] user = ...

    [direct]
    nameserver = "127.0.0.1"

    [routes]
    "example.com" = "lmtp:///run/dovecot/lmtp"

    [limits]
    connections = 20

    [[dkim]]
    domain = "example.org"
    selector = "2026a"
    key_file = "/etc/zsmtp/2026a.pem"

Secrets are in other places: ``password_file`` and ``password_env`` name them. An invalid value raises a
:class:`~zsmtp.errors.ConfigError` that names the file, the key with its whole path, and the nearest valid key.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast

from zsmtp.client.config import Config, Login, Relay
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.fieldtypes import FieldType, field_types

MAX_FILE = 1 << 20  # octets

T = TypeVar("T")

Readers = Mapping[Any, Callable[[Any, str], Any]]
"""Readers of some types: the annotated type, and a function of the value and the path of its key."""


def read_file(path: str | Path) -> Config:
    """Read a configuration file. Raises ConfigError naming it, OSError if it cannot be read."""
    return read_toml(path, read_table)


def read_toml(path: str | Path, read: Callable[[Mapping[str, Any]], T]) -> T:
    """Parse a TOML file and pass its table to ``read``. Raises ConfigError naming the file, OSError if unreadable."""
    with open(path, "rb") as file:
        octets = file.read(MAX_FILE + 1)
    try:
        if len(octets) > MAX_FILE:
            raise ConfigError(f"more than {MAX_FILE} octets")
        return read(tomllib.loads(octets.decode("utf-8")))
    except (ConfigError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{escape(str(path))}: {error}") from error


def read_table(table: Mapping[str, Any]) -> Config:
    """Make a configuration of the table of a TOML file or another mapping. Raises ConfigError naming the key."""
    return read_dataclass(Config, table, "", {})


def read_dataclass(kind: type[T], table: Mapping[str, Any], path: str, readers: Readers) -> T:
    """Make a dataclass of a table; ``path`` is that of its key, with a dot after it. Raises ConfigError."""
    known = {one.name: one for one in fields(cast(Any, kind)) if one.init and not one.metadata.get("python only")}
    types = field_types(kind)
    values = {}
    for key, value in table.items():
        here = f"{path}{key}"
        if key not in known:
            raise ConfigError(f"{escape(here)}: there is no such key{_nearest(key, known)}")
        if kind is Login and key == "password":
            raise ConfigError(f"{here}: no secret is allowed here; use password_file or password_env")
        values[key] = _read_value(types[key], value, here, readers)
    try:
        return kind(**values)
    except ConfigError as error:  # its text begins with the lower key
        raise ConfigError(f"{path}{error}") from error
    except TypeError as error:
        missing = [name for name in known if name not in values and _is_needed(known[name])]
        raise ConfigError(f"{path}{missing[0] if missing else '?'}: is missing") from error


def _is_needed(one: Field[Any]) -> bool:
    from dataclasses import MISSING

    return one.default is MISSING and one.default_factory is MISSING


def _nearest(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f"; is {near[0]} meant?" if near else f" (there are: {', '.join(known)})"


def _read_value(wanted: FieldType, value: Any, path: str, readers: Readers) -> Any:
    """Convert one value to the type of its field."""
    if wanted.hint in readers:
        return readers[wanted.hint](value, path)
    ((kind, items),) = wanted.options
    if kind is Relay and isinstance(value, str):
        return _in(path, Relay.from_url, value)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: a table is expected{' or a URL' if kind is Relay else ''}")
        return read_dataclass(cast(type[Any], kind), value, f"{path}.", readers)
    if kind is Mapping:
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: a table is expected")
        return {key: _read_value(items[1], one, f"{path}.{escape(key)}", readers) for key, one in value.items()}
    if kind is tuple and items[0].classes:
        if not isinstance(value, list):
            raise ConfigError(f"{path}: tables are expected, each under [[{path}]]")
        return tuple(_read_value(items[0], one, f"{path}[{number}]", readers) for number, one in enumerate(value))
    if kind is tuple:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ConfigError(f"{path}: a list of strings is expected")
        return tuple(value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _read_enum(kind, value, path)
    return _read_plain(kind, value, path)


def _read_plain(kind: Any, value: Any, path: str) -> Any:
    words = {
        str: "a string",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        datetime: "a date with a time",
    }
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{path}: {words[kind]} is expected")
    return value


def _read_enum(kind: type[Enum], value: Any, path: str) -> Enum:
    for member in kind:
        if isinstance(value, str) and value.replace("-", "_") == str(member.value).replace("-", "_"):
            return member
    raise ConfigError(f"{path}: {escape(str(value)[:80])} is not one of {', '.join(str(one.value) for one in kind)}")


def _in(path: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix('relay: ')}") from error
