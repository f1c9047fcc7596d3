"""Records are dataclasses in every respect that is used here."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import zsmtp
from zsmtp.records import NamedTuple, dataclass, field, field_names, replace


@dataclass(frozen=True, slots=True)
class Empty:
    """No fields."""


@dataclass(frozen=True, slots=True)
class Point(Empty):
    """Two fields, one with a default."""

    x: int
    y: int = 2

    @property
    def total(self) -> int:
        return self.x + self.y


@dataclass(frozen=True, slots=True)
class Space(Point):
    z: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Noted:
    a: int
    note: str = field(default="", compare=False)


@dataclass(slots=True)
class Loose:
    a: int
    b: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Same:
    a: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    a: int = 1
    b: int


@dataclasses.dataclass(frozen=True, slots=True)
class Child(Point):
    """A standard dataclass of a record."""

    w: int = 9


def test_what_is_made_and_shown() -> None:
    assert (Point(1), Point(1, y=3).total) == (Point(x=1, y=2), 4)
    assert repr(Point(1)) == "Point(x=1, y=2)"
    assert repr(Empty()) == "Empty()"
    assert Space(1).z is not Space(1).z
    assert Space(1, 2, [3]) == Space(1, z=[3])
    assert Child(1) == Child(1, 2, 9)
    for wrong in ((), (1, 2, 3)):
        with pytest.raises(TypeError, match="__init__"):
            Point(*wrong)
    with pytest.raises(TypeError, match="positional"):
        Named(1, 2)  # type: ignore[misc]
    assert Named(b=2) == Named(a=1, b=2)


def test_equal_of_one_class_only() -> None:
    assert Point(1) != Space(1)
    assert Point(1) != (1, 2)
    assert hash(Point(1)) == hash(Point(1, 2))
    assert {Point(1), Point(1, 2)} == {Point(1)}
    assert Empty() == Empty()
    assert Noted(1, "x") == Noted(1)
    assert hash(Noted(1, "x")) == hash(Noted(1))
    assert [one.compare for one in dataclasses.fields(Noted)] == [True, False]
    assert Loose(1) == Loose(1)
    assert Same(1) != Same(1)
    assert len({Same(1), Same(1)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Loose(1))


def test_frozen_and_slotted() -> None:
    point, loose = Point(1), Loose(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert point.x == 1
    loose.a = 2
    with pytest.raises(AttributeError):
        loose.c = 2  # type: ignore[attr-defined]
    assert not hasattr(Space(1), "__dict__")


def test_the_tools_for_dataclasses_work() -> None:
    assert [one.name for one in dataclasses.fields(Space)] == ["x", "y", "z"]
    x, y, z = dataclasses.fields(Space(1))
    assert (x.default, y.default, z.default_factory) == (dataclasses.MISSING, 2, list)
    assert dataclasses.is_dataclass(Empty)
    assert replace(Point(1), y=5) == dataclasses.replace(Point(1), y=5) == Point(1, 5)
    assert replace(Named(b=2), a=3) == Named(a=3, b=2)
    assert replace(Child(1, w=4), x=3) == Child(3, w=4)
    with pytest.raises(TypeError):
        replace(Point(1), w=5)  # type: ignore[call-arg]
    assert dataclasses.asdict(Space(1, 2, [3])) == {"x": 1, "y": 2, "z": [3]}
    assert get_type_hints(Space) == {"x": int, "y": int, "z": list[int]}
    assert pickle.loads(pickle.dumps(Space(1, 2, [3]))) == Space(1, 2, [3])
    match Point(1):
        case Point(x, y):
            assert (x, y) == (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    name: str
    secret: str = field(default="", repr=False)
    kept: object = field(default=None, metadata={"python only": True})
    many: list[int] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("no name")
        object.__setattr__(self, "name", self.name.lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedToo(Checked):
    more: int = 0


def test_what_is_secret_is_not_shown_and_what_is_wrong_is_refused() -> None:
    one = Checked(name="ANN", secret="s3cret")
    assert (one.name, one.secret, one.many) == ("ann", "s3cret", [])
    assert repr(one) == "Checked(name='ann', kept=None)"
    assert repr(CheckedToo(name="B")) == "CheckedToo(name='b', kept=None, more=0)"
    assert replace(one, name="BOB").name == dataclasses.replace(one, name="BOB").name == "bob"
    for wrong in (lambda: Checked(name=""), lambda: replace(one, name=""), lambda: CheckedToo(name="")):
        with pytest.raises(ValueError, match="no name"):
            wrong()
    shown = {one.name: (one.repr, dict(one.metadata)) for one in dataclasses.fields(Checked)}
    assert shown == {
        "name": (True, {}),
        "secret": (False, {}),
        "kept": (True, {"python only": True}),
        "many": (False, {}),
    }


def test_the_names_of_fields() -> None:
    @dataclasses.dataclass
    class Standard:
        b: int
        a: int = 1

    assert field_names(CheckedToo) == ("name", "secret", "kept", "many", "more")
    assert field_names(Standard) == ("b", "a")


def test_the_agents_engine_loads_without_the_standard_decorator() -> None:
    """It and what it loads would cost more than the rest of the engine."""
    program = "import sys, zsmtp.zmailer.loop; print(*{'dataclasses', 'inspect'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        env={"PYTHONPATH": str(Path(zsmtp.__file__).parent.parent)},
        check=True,
    )
    assert found.stdout == b"\n"


class Place(NamedTuple):
    """Where something is."""

    x: int
    y: int = 2
    name: str | None = None

    @property
    def total(self) -> int:
        return self.x + self.y

    def __str__(self) -> str:
        return f"{self.name}:{self.total}"


def test_a_named_tuple_is_one_in_every_respect() -> None:
    place = Place(1, name="here")
    assert place == (1, 2, "here")
    assert place._replace(y=5) == Place(1, 5, "here")
    assert Place._fields == ("x", "y", "name")
    assert Place._field_defaults == {"y": 2, "name": None}
    assert Place.__bases__ == (tuple,)
    assert (Place.__module__, Place.__qualname__, Place.__doc__) == (__name__, "Place", "Where something is.")
    assert place._asdict() == {"x": 1, "y": 2, "name": "here"}
    assert (place.total, str(place), repr(place)) == (3, "here:3", "Place(x=1, y=2, name='here')")
    assert get_type_hints(Place) == {"x": int, "y": int, "name": str | None}
    assert pickle.loads(pickle.dumps(place)) == place
    match place:
        case Place(x, y, name):
            assert (x, y, name) == (1, 2, "here")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        Place()  # type: ignore[call-arg]


def test_a_field_without_default_behind_one_with_it_is_refused_where_the_class_is_defined() -> None:
    with pytest.raises(TypeError, match="non-default"):

        class Wrong(NamedTuple):
            a: int = 1
            b: int  # type: ignore[misc]
