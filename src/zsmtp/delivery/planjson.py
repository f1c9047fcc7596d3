"""Plans as JSON: what ``zsmtp explain --json`` prints, a trace keeps, and a delivery can be told to execute.

The document says which schema it has, and holds every value of the plan, so that the plan read back equals the plan
written::

    document = plan_document(plan)          # {"schema": "zsmtp.plan/1", "route": {"destination": ..., ...}, ...}
    text = json.dumps(document)
    assert parse_plan(text) == plan

An object has the names of the fields of the value it stands for; one that may be of several kinds says which in
``type``. Enums are their words, tuples are lists, octets are hexadecimal digits, or for texts (TXT records, MTA-STS
policies) strings of one character for each octet. A mapping is a list of objects with ``key`` and ``value``.

Reading is strict: what is not of its type, not known, or would lead a connection elsewhere than it says is refused with
a :class:`~zsmtp.errors.ConfigError` that names the place (``route.candidates[0].endpoint.port``). A field that is
missing has its default, if it has one: later versions of a schema may add such fields, and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from zsmtp.delivery.plan import DeliveryPlan
from zsmtp.dns.answer import MX, Answer, Query
from zsmtp.dns.ip import canonical_ip, ip_family
from zsmtp.dns.literal import domain_problem
from zsmtp.dns.plan import Endpoint, Family
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.tls.mtasts import CachedPolicy, PolicyLookup
from zsmtp.tls.policy import Barred, Level, Policy, Requirement

SCHEMA = "zsmtp.plan/1"
MAX_DOCUMENT = 8 << 20  # characters
MAX_ITEMS = 20_000  # of one list
MAX_NUMBER = 1 << 53  # beyond it, JSON readers disagree

_TEXTS = {(Answer, "records"), (CachedPolicy, "text")}  # fields whose octets are text for people
_MAX_SOCKET_PATH = 107  # octets of sun_path without its final NUL


def plan_document(plan: DeliveryPlan) -> dict[str, Any]:
    """The plan as a JSON object; ``json.dumps`` does the rest."""
    return {"schema": SCHEMA, **_encode_object(plan)}


def read_plan(document: object) -> DeliveryPlan:
    """The plan of a JSON object. Raises ConfigError for one that is none."""
    if not isinstance(document, dict):
        raise ConfigError(f"not a plan: {_kind(document)} instead of an object")
    if document.get("schema") != SCHEMA:
        found = document.get("schema")
        told = f"schema {escape(found[:80])!r}" if isinstance(found, str) else "no schema"
        raise ConfigError(f"not a plan of {SCHEMA}: {told}")
    members = {name: value for name, value in document.items() if name != "schema"}
    try:
        plan = _decode_object(DeliveryPlan, members, "")
    except RecursionError:
        raise ConfigError(f"not a plan of {SCHEMA}: nested too deeply") from None
    assert isinstance(plan, DeliveryPlan)
    return plan


def parse_plan(text: str | bytes) -> DeliveryPlan:
    """The plan of a JSON text. Raises ConfigError for one that is none."""
    return read_plan(parse_json(text))


def parse_json(text: str | bytes) -> object:
    """The value of a JSON text (RFC 8259); ConfigError says where it is none."""
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


# -------------------------------------------------------------------- writing


# What a class knows by name only, to spare its users the import.
_NAMES: dict[type, dict[str, Any]] = {
    DeliveryPlan: {"PolicyLookup": PolicyLookup, "Barred": Barred, "Policy": Policy, "Requirement": Requirement},
}
_known_hints: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    """The types of a class's fields."""
    if kind not in _known_hints:
        _known_hints[kind] = get_type_hints(kind, localns=_NAMES.get(kind))
    return _known_hints[kind]


def _encode_object(value: Any) -> dict[str, Any]:
    kind = type(value)
    hints = _hints(kind)
    return {
        field.name: _encode(hints[field.name], getattr(value, field.name), text=(kind, field.name) in _TEXTS)
        for field in fields(value)
    }


def _encode(hint: Any, value: Any, *, text: bool) -> Any:
    if is_dataclass(value):
        tag = {"type": type(value).__name__} if len(_classes(hint)) > 1 else {}
        return tag | _encode_object(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.decode("latin-1") if text else value.hex()
    if isinstance(value, tuple | frozenset):
        item = _item_hint(_member(hint, type(value)))
        return [_encode(item, one, text=text) for one in (sorted(value) if isinstance(value, frozenset) else value)]
    if isinstance(value, dict):
        key_hint, value_hint = get_args(_member(hint, dict))
        return [
            {"key": _encode(key_hint, key, text=text), "value": _encode(value_hint, one, text=text)}
            for key, one in value.items()
        ]
    return value


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, flat; of anything else the hint itself."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(option for member in get_args(hint) for option in _options(member))
    return (hint,)


def _classes(hint: Any) -> dict[str, type]:
    """The dataclasses a hint allows, by name."""
    return {one.__name__: one for one in _options(hint) if isinstance(one, type) and is_dataclass(one)}


def _member(hint: Any, kind: type) -> Any:
    """The member of a hint that is a container of this kind."""
    return next(one for one in _options(hint) if issubclass(get_origin(one) or object, kind))


def _item_hint(hint: Any) -> Any:
    return get_args(hint)[0]


# -------------------------------------------------------------------- reading


def _decode_object(kind: type, members: dict[str, Any], where: str) -> Any:
    hints = _hints(kind)
    known = fields(kind)
    unknown = sorted(members.keys() - {field.name for field in known})
    if unknown:
        raise _wrong(f"{where}.{escape(unknown[0][:80])}", f"nothing known to a {kind.__name__}")
    values = {}
    for field in known:
        place = f"{where}.{field.name}"
        if field.name in members:
            text = (kind, field.name) in _TEXTS
            values[field.name] = _decode(hints[field.name], members[field.name], place, text=text)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _wrong(place, "missing")
    value = kind(**values)
    check = _CHECKS.get(kind)
    problem = check(value) if check is not None else None
    if problem is not None:
        raise _wrong(where, problem)
    return value


def _decode(hint: Any, value: Any, where: str, *, text: bool) -> Any:
    options = _options(hint)
    if value is None and type(None) in options:
        return None
    if isinstance(value, dict):
        return _decode_object(*_class_of(hint, value, where), where)
    for option in options:
        origin = get_origin(option) or option
        if isinstance(value, list) and origin in (tuple, frozenset, dict):
            return _decode_list(option, origin, value, where, text=text)
        if isinstance(option, type) and issubclass(option, Enum):
            return _decode_word(option, value, where)
        if option in _SCALARS and _SCALARS[option](value):
            return float(value) if option is float else value
        if option is bytes and isinstance(value, str):
            return _decode_octets(value, where, text=text)
    raise _wrong(where, f"{_kind(value)} is not what belongs here")


def _class_of(hint: Any, value: dict[str, Any], where: str) -> tuple[type, dict[str, Any]]:
    """Which of the dataclasses of a hint an object is, and its members without the tag."""
    classes = _classes(hint)
    if len(classes) == 1:
        return next(iter(classes.values())), value
    if not classes:
        raise _wrong(where, "an object is not what belongs here")
    tag = value.get("type")
    if not isinstance(tag, str) or tag not in classes:
        raise _wrong(f"{where}.type", f"none of {', '.join(classes)}")
    return classes[tag], {name: member for name, member in value.items() if name != "type"}


def _decode_list(hint: Any, origin: Any, value: list[Any], where: str, *, text: bool) -> Any:
    if len(value) > MAX_ITEMS:
        raise _wrong(where, f"more than {MAX_ITEMS} items")
    if origin is not dict:
        item = _item_hint(hint)
        return origin(_decode(item, one, f"{where}[{number}]", text=text) for number, one in enumerate(value))
    key_hint, value_hint = get_args(hint)
    found = {}
    for number, pair in enumerate(value):
        place = f"{where}[{number}]"
        if not isinstance(pair, dict) or pair.keys() != {"key", "value"}:
            raise _wrong(place, "not an object of key and value")
        key = _decode(key_hint, pair["key"], f"{place}.key", text=text)
        if key in found:
            raise _wrong(f"{place}.key", "there twice")
        found[key] = _decode(value_hint, pair["value"], f"{place}.value", text=text)
    return found


def _decode_word(kind: type[Enum], value: Any, where: str) -> Enum:
    for member in kind:
        if isinstance(value, str) and member.value == value:
            return member
    raise _wrong(where, f"none of {', '.join(str(member.value) for member in kind)}")


def _decode_octets(value: str, where: str, *, text: bool) -> bytes:
    try:
        return value.encode("latin-1") if text else bytes.fromhex(value)
    except ValueError:
        raise _wrong(where, "not octets" if text else "not hexadecimal digits") from None


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


def _wrong(where: str, problem: str) -> ConfigError:
    return ConfigError(f"not a plan of {SCHEMA}: {where.removeprefix('.') or 'the document'}: {problem}")


# -------------------------------------------------- what must hold of a value


def _endpoint_problem(endpoint: Endpoint) -> str | None:
    """Delivery connects to what stands here, so it must be an address, and be what it says."""
    if endpoint.family is Family.UNIX:
        path = endpoint.address.encode("utf-8", "surrogatepass")
        good = path[:1] == b"/" and b"\0" not in path and len(path) <= _MAX_SOCKET_PATH and endpoint.port == 0
        return None if good and endpoint.host == endpoint.address else "not a UNIX socket"
    address = endpoint.address
    if canonical_ip(address) != address or ip_family(address) is not endpoint.family:
        return f"not an {endpoint.family.value} address in its canonical form"
    if not 1 <= endpoint.port <= 65535:
        return "not a port"
    if endpoint.literal:
        return None if endpoint.host == address else "a literal with another name"
    problem = domain_problem(endpoint.host)
    return None if problem is None else f"the host {problem}"


def _requirement_problem(requirement: Requirement) -> str | None:
    if requirement.level is Level.DANE_ONLY:
        return "dane-only is a level of policies"
    if (requirement.level is Level.DANE) != bool(requirement.tlsa):
        return "level dane and TLSA records go together"
    if (requirement.level is Level.FINGERPRINT) != bool(requirement.fingerprints):
        return "level fingerprint and fingerprints go together"
    if requirement.server_name and domain_problem(requirement.server_name) is not None:
        return "the server name is not a host name"
    return None


def _mx_problem(record: MX) -> str | None:
    return None if 0 <= record.preference <= 65535 else "not a preference"


def _query_problem(query: Query) -> str | None:
    return None if len(query.name) <= 255 else "a name too long for the DNS"


_CHECKS: dict[type, Callable[[Any], str | None]] = {
    Endpoint: _endpoint_problem,
    Requirement: _requirement_problem,
    MX: _mx_problem,
    Query: _query_problem,
}
