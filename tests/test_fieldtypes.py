"""What type hints say of the fields of a dataclass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Protocol

import pytest

from zsmtp.client.config import Config, Limits
from zsmtp.errors import ConfigError
from zsmtp.fieldtypes import FieldType, TypeOption, check_least, check_types, field_types
from zsmtp.queue.addressrules import AddressRules
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.quotas import TenantLimits
from zsmtp.queue.returnpath import BounceConfig
from zsmtp.queue.shaping import SiteLimits


class Speaks(Protocol):
    def speak(self) -> str: ...


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    size: int = 0


@dataclass(frozen=True, slots=True)
class Outer:
    name: str = ""
    seconds: float = 0.0
    colour: Colour | None = None
    inner: Inner | Colour = Colour.RED
    names: tuple[str, ...] = ()
    many: Mapping[str, tuple[Inner, ...]] = field(default_factory=dict)
    call: Callable[[int], str] = str
    speaks: Speaks | None = None


def test_a_plain_type_is_one_option() -> None:
    assert field_types(Outer)["name"] == FieldType(str, (TypeOption(str, ()),), False)


def test_none_is_no_option_of_its_own() -> None:
    colour = field_types(Outer)["colour"]
    assert colour.optional
    assert [one.kind for one in colour.options] == [Colour]


def test_dataclasses_are_told_from_other_classes() -> None:
    assert field_types(Outer)["inner"].classes == (Inner,)


def test_containers_have_the_types_of_what_is_in_them() -> None:
    types = field_types(Outer)
    assert types["names"].container(tuple).items[0].hint is str
    of_keys, of_values = types["many"].container(dict).items
    assert of_keys.hint is str
    assert of_values.container(tuple).items[0].classes == (Inner,)


def test_a_container_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LookupError, match="holds no dict"):
        field_types(Outer)["names"].container(dict)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"name": 1}, "name: str is expected, not int"),
        ({"seconds": "1"}, "seconds: float or int is expected, not str"),
        ({"colour": "red"}, "colour: Colour is expected, not str"),
        ({"inner": None}, "inner: Inner or Colour is expected, not NoneType"),
        ({"names": ["a"]}, "names: tuple is expected, not list"),
        ({"many": ()}, "many: Mapping is expected, not tuple"),
        ({"call": 1}, "call: Callable is expected, not int"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}$"):
        check_types(Outer(**values))  # type: ignore[arg-type]


def test_right_values_pass() -> None:
    check_types(Outer())
    check_types(Outer(seconds=1, colour=Colour.RED, inner=Inner(), many={"a": (Inner(),)}))
    check_types(Outer(speaks=1))  # type: ignore[arg-type]  # what fits a protocol is not seen at run time


def test_least_numbers_are_held() -> None:
    check_least(Outer(seconds=1.5), seconds=1.5)
    for seconds in (1.4, float("nan")):
        with pytest.raises(ConfigError, match=r"^seconds: .* is less than 1\.5$"):
            check_least(Outer(seconds=seconds), seconds=1.5)


@pytest.mark.parametrize("kind", [AddressRules, BounceConfig, Config, Limits, QueueConfig, SiteLimits, TenantLimits])
def test_configurations_of_programs_are_checked(kind: type) -> None:
    """What a file may not say, a program may not say either, in any field."""
    for name in (one.name for one in fields(kind) if one.init):
        with pytest.raises(ConfigError, match=f"^{name}: "):
            kind(**{name: object()})


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        (QueueConfig, {"connections": 0}, "connections: 0 is less than 1"),
        (QueueConfig, {"claim": 0}, "claim: 0 is less than 1"),
        (QueueConfig, {"leases": -3}, "leases: -3 is less than 1"),
        (QueueConfig, {"idle": -1}, "idle: -1 is less than 0"),
        (QueueConfig, {"retention": float("nan")}, "retention: nan is less than 3600"),
        (SiteLimits, {"start": 0}, "start: 0 is less than 1"),
        (SiteLimits, {"start": 5, "most": 4}, "most: 4 is less than start, which is 5"),
        (SiteLimits, {"per_connection": -1}, "per_connection: -1 is less than 0"),
        (TenantLimits, {"queued_octets": -1}, "queued_octets: -1 is less than 0"),
    ],
)
def test_numbers_of_a_queue_are_checked(kind: type, values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}$"):
        kind(**values)
