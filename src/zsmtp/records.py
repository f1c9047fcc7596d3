"""Value types that are fast to define, for modules that the agent loads before its first delivery.

The standard library's decorator compiles five functions for each class and loads ``inspect``; with the agent's eighty
value types that is more than half of the load time of its engine. Here one function is compiled, ``__init__``, when the
first instance is made (a run makes no instance of most events), and the others are shared. The result is a dataclass:
``dataclasses.fields``, ``replace``, ``asdict`` and inheritance work as always, type checkers see the standard
decorator, and an instance of a frozen class is made twice as fast::

    from zsmtp.records import dataclass, field, replace

Unused features are missing: no ``order``, no ``InitVar``; always with ``slots``. :func:`field_names` returns the names
of the fields without making a standard dataclass, as ``dataclasses.fields`` does. :data:`NamedTuple` is
``typing.NamedTuple`` for type checkers, too; the original compiles each annotation, which takes three times as long.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from operator import attrgetter

TYPE_CHECKING = False  # typing's own would cost its import; type checkers know the name
if TYPE_CHECKING:
    from typing import Any

_ABSENT = object()


class _NamedTupleMeta(type):
    """Turns a class statement into a ``collections.namedtuple``."""

    def __new__(cls, name: str, bases: tuple[type, ...], content: dict[str, Any]) -> Any:
        if not bases:
            return super().__new__(cls, name, bases, content)
        names = tuple(content.get("__annotations__", ()))
        optional = [one for one in names if one in content]
        if optional != list(names[len(names) - len(optional) :]):
            raise TypeError(f"{name}: a non-default field behind one with a default")
        defaults: Any = tuple(content[one] for one in optional)
        made = namedtuple(name, names, defaults=defaults, module=content["__module__"])  # type: ignore[misc]
        for attribute, value in content.items():
            if attribute not in made.__dict__ or attribute == "__doc__":
                setattr(made, attribute, value)
        return made


class _NamedTuple(metaclass=_NamedTupleMeta):
    """Like ``typing.NamedTuple``, which also compiles each annotation to check that it is a type."""


class _Given:
    """The result of :func:`field`: a default or its factory, and whether the field counts for equality and ``repr``."""

    def __init__(
        self,
        default: object,
        make: Callable[[], Any] | None,
        *,
        compare: bool = True,
        repr: bool = True,
        metadata: dict[str, object] | None = None,
    ) -> None:
        self.default = default
        self.make = make
        self.compare = compare
        self.repr = repr
        self.metadata = metadata


class _Member:
    """One field of a class."""

    __slots__ = ("compare", "default", "hint", "kw_only", "make", "metadata", "name", "repr")

    def __init__(self, name: str, hint: object, default: object, *, kw_only: bool) -> None:
        given = default if isinstance(default, _Given) else _Given(default, None)
        self.name = name
        self.hint = hint
        self.make = given.make
        self.default = given.default
        self.compare = given.compare
        self.repr = given.repr
        self.metadata = given.metadata
        self.kw_only = kw_only

    def parameter(self) -> str:
        """Its text in the parameter list of ``__init__``."""
        if self.make is not None:
            return f"{self.name}=_absent"
        return self.name if self.default is _ABSENT else f"{self.name}=_default_{self.name}"

    def as_standard(self) -> Any:
        """The equivalent ``dataclasses.field``."""
        import dataclasses

        options: dict[str, Any] = {
            "kw_only": self.kw_only,
            "compare": self.compare,
            "repr": self.repr,
            "metadata": self.metadata,
        }
        if self.make is not None:
            options["default_factory"] = self.make
        elif self.default is not _ABSENT:
            options["default"] = self.default
        return dataclasses.field(**options)


class _Described:
    """``__dataclass_fields__`` or ``__dataclass_params__`` of a standard dataclass with the same fields.

    The standard dataclass is made at the first access.
    """

    def __init__(self, members: dict[str, _Member], attribute: str, *, frozen: bool, eq: bool) -> None:
        self._members = members
        self._attribute = attribute
        self._frozen = frozen
        self._eq = eq
        self._made: object = None

    def __get__(self, instance: object, owner: type) -> object:
        if self._made is None:
            import dataclasses

            fields = [(member.name, member.hint, member.as_standard()) for member in self._members.values()]
            twin = dataclasses.make_dataclass(owner.__name__, fields, frozen=self._frozen, eq=self._eq)
            self._made = getattr(twin, self._attribute)
        return self._made


def _dataclass(
    *, frozen: bool = False, slots: bool = True, eq: bool = True, kw_only: bool = False
) -> Callable[[type], type]:
    """The decorator, like ``dataclasses.dataclass(slots=True, ...)``."""
    if not slots:
        raise TypeError("records have slots")
    return lambda cls: _record(cls, frozen=frozen, eq=eq, kw_only=kw_only)


def _record(cls: type, *, frozen: bool, eq: bool, kw_only: bool) -> type:
    members: dict[str, _Member] = {}
    for base in cls.__mro__[-1:0:-1]:
        members |= base.__dict__.get("_record_members", {})
    content = dict(cls.__dict__)
    own = []
    for name, hint in content.get("__annotations__", {}).items():
        members[name] = _Member(name, hint, content.pop(name, _ABSENT), kw_only=kw_only)
        own.append(name)
    content["__slots__"] = tuple(own)
    content.pop("__dict__", None)
    content.pop("__weakref__", None)
    names = tuple(members)
    content["_record_members"] = members
    content["__match_args__"] = tuple(name for name in names if not members[name].kw_only)
    for attribute in ("__dataclass_fields__", "__dataclass_params__"):
        content[attribute] = _Described(members, attribute, frozen=frozen, eq=eq)
    values = _values_of(tuple(name for name in names if members[name].compare))
    shown = tuple(name for name in names if members[name].repr)
    for name, method in _methods(names, shown, values, frozen=frozen, eq=eq).items():
        content.setdefault(name, method)
    if eq and "__hash__" not in cls.__dict__:
        content["__hash__"] = _hash_of(values) if frozen else None
    content["__init__"] = _Init(members, frozen=frozen)
    qualified = cls.__qualname__
    cls = type(cls)(cls.__name__, cls.__bases__, content)
    cls.__qualname__ = qualified
    return cls


class _Init:
    """Replaces the ``__init__`` of a record until its first use."""

    __slots__ = ("_cls", "_frozen", "_members")

    def __init__(self, members: dict[str, _Member], *, frozen: bool) -> None:
        self._members = members
        self._frozen = frozen

    def __set_name__(self, owner: type, name: str) -> None:
        self._cls = owner

    def __get__(self, instance: object, owner: type) -> Callable[..., None]:
        init = _compiled_init(self._cls, self._members, frozen=self._frozen)
        self._cls.__init__ = init  # type: ignore[misc]
        bound: Callable[..., None] = init if instance is None else init.__get__(instance, owner)
        return bound


def _compiled_init(cls: type, members: dict[str, _Member], *, frozen: bool) -> Any:
    """Compile ``__init__``, which sets slots by their descriptors if the class is frozen."""
    known: dict[str, object] = {"_absent": _ABSENT}
    positional: list[str] = []
    keyword: list[str] = []
    lines: list[str] = []
    for name, member in members.items():
        (keyword if member.kw_only else positional).append(member.parameter())
        known[f"_default_{name}"], known[f"_make_{name}"] = member.default, member.make
        value = name if member.make is None else f"_make_{name}() if {name} is _absent else {name}"
        if frozen:
            known[f"_set_{name}"] = getattr(cls, name).__set__
            lines.append(f" _set_{name}(self, {value})")
        else:
            lines.append(f" self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    parameters = ", ".join(["self", *positional, *(["*", *keyword] if keyword else [])])
    exec(f"def __init__({parameters}):\n" + ("\n".join(lines) or " pass"), known)  # noqa: S102 - names of fields only
    init: Any = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    return init


def _values_of(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """A function from an instance to the values that count for equality."""
    return attrgetter(*names) if names else lambda instance: ()


def _hash_of(values: Callable[[Any], Any]) -> Callable[[Any], int]:
    return lambda self: hash(values(self))


def _methods(
    names: tuple[str, ...], visible: tuple[str, ...], values: Callable[[Any], Any], *, frozen: bool, eq: bool
) -> dict[str, Callable[..., Any]]:
    """The methods of a record besides ``__init__`` and ``__hash__``."""

    def show(self: Any) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in visible)
        return f"{type(self).__qualname__}({shown})"

    def same(self: Any, other: object) -> bool:
        return bool(values(self) == values(other)) if other.__class__ is self.__class__ else NotImplemented

    def state(self: Any) -> list[object]:
        return [getattr(self, name) for name in names]

    def restore(self: Any, state: list[object]) -> None:
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    methods: dict[str, Callable[..., Any]] = {"__repr__": show}
    if eq:
        methods["__eq__"] = same
    if frozen:
        methods |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
        methods |= {"__getstate__": state, "__setstate__": restore}
    return methods


def _refuse_to_set(self: object, name: str, value: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _replace(instance: Any, /, **changes: object) -> Any:
    """A new instance with some fields changed, of any dataclass."""
    members = type(instance).__dict__.get("_record_members")
    if members is None:
        import dataclasses

        return dataclasses.replace(instance, **changes)
    for name in members:
        if name not in changes:
            changes[name] = getattr(instance, name)
    return instance.__class__(**changes)


def _field(
    *,
    default: object = _ABSENT,
    default_factory: Callable[[], Any] | None = None,
    compare: bool = True,
    repr: bool = True,
    metadata: dict[str, object] | None = None,
) -> Any:
    """A default, or its factory; with ``compare`` false the field does not count for equality.

    With ``repr`` false it is not shown. ``metadata`` is that of ``dataclasses.Field``.
    """
    return _Given(default, default_factory, compare=compare, repr=repr, metadata=metadata)


def field_names(cls: type) -> tuple[str, ...]:
    """The names of the fields of a dataclass of either kind, in their order."""
    members = getattr(cls, "_record_members", None)
    if members is not None:
        return tuple(members)
    import dataclasses

    return tuple(one.name for one in dataclasses.fields(cls))


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
    from typing import NamedTuple as NamedTuple
else:
    dataclass, field, replace, NamedTuple = _dataclass, _field, _replace, _NamedTuple
