"""The order of the layers, held by walking every import: also those inside functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
MODULES = sorted((SOURCE / "zsmtp").rglob("*.py"))

# Each room with those it may import from, beside itself.
FLOOR = {"errors", "escape", "patterns", "records"}
BELOW = {
    **{room: set() for room in FLOOR},
    "events": {"errors", "records"},
    "proto": FLOOR | {"events"},
    "body": FLOOR | {"events"},
    "dns": FLOOR | {"events", "proto", "body"},
    "tls": FLOOR | {"events", "proto", "body", "dns"},  # DANE reads answers; dns knows nothing of TLS
    "net": FLOOR | {"events", "proto", "body", "dns", "tls"},
    "delivery": FLOOR | {"events", "proto", "body", "dns", "tls", "net"},
    "observers": FLOOR | {"events", "proto", "body", "dns", "tls", "net", "delivery"},
}
ENGINE = set(BELOW)
# The library: programs use it, and so do the queue and the command; the agent does not.
LIBRARY = {"client": ENGINE, "aio": ENGINE | {"client"}}
PUBLIC = {"client", "aio", "errors"}  # where the names of the package itself come from
TOPS = {"zmailer", "queue", "cli"}
# Events carry what they tell of as it is; its types are named for the type checker, never imported.
EXCEPTIONS = {
    ("zsmtp.events", f"zsmtp.{module}")
    for module in (
        "delivery.envelope",
        "delivery.outcome",
        "delivery.plan",
        "dns.answer",
        "dns.plan",
        "proto.capabilities",
        "proto.phase",
        "proto.plan",
        "proto.reply",
        "tls.facts",
        "tls.judgement",
    )
} | {("zsmtp.errors", "zsmtp.client.report")}

ALLOWED = {
    **BELOW,
    **LIBRARY,
    "": PUBLIC,
    "zmailer": ENGINE,
    "queue": ENGINE | set(LIBRARY),
    "cli": ENGINE | set(LIBRARY) | TOPS,
}

FORBIDDEN = {"socket", "asyncio", "ssl", "time", "logging", "os", "random", "selectors", "threading"}
PURE_ROOMS = {"proto", "body", "delivery", "errors", "escape", "patterns", "records", "events"}
PURE_MODULES = {
    f"zsmtp.dns.{name}"
    for name in ("answer", "plan", "ip", "literal", "destination", "heloname", "cache", "static", "hosts")
} | {f"zsmtp.net.{name}" for name in ("race", "effects", "script", "scripted")}
# All of tls/ decides; only contexts are made of files.
PURE_MODULES |= {
    f"zsmtp.tls.{path.stem}" for path in (SOURCE / "zsmtp/tls").glob("[a-z]*.py") if path.stem != "context"
}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """The full names of everything a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            assert node.module is not None
            found.update({f"{node.module}.{alias.name}" for alias in node.names} | {node.module})
    return found


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_walk_sees_what_is_there() -> None:
    names = {name_of(path) for path in MODULES}
    assert names >= PURE_MODULES
    assert {room_of(name) for name in names if name != "zsmtp"} <= ENGINE | set(LIBRARY) | TOPS
    assert "os" in imports(SOURCE / "zsmtp/net/blocking.py")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_from_below_only(path: Path) -> None:
    module = name_of(path)
    room = room_of(module)
    for imported in imports(path):
        if not imported.startswith("zsmtp.") or (module, imported.rpartition(".")[0]) in EXCEPTIONS:
            continue
        target = room_of(imported)
        if (module, imported) in EXCEPTIONS or target in ("", room, "__version__"):
            continue
        allowed = ALLOWED[room]
        assert target in allowed, f"{module} imports {imported}"


def test_exceptions_are_for_the_type_checker_only() -> None:
    tree = ast.parse((SOURCE / "zsmtp/events.py").read_text())
    checked = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    tree.body.remove(checked)
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in names if name is not None and name.startswith("zsmtp")] == ["zsmtp.records"]


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(name_of(p)) == "delivery"], ids=name_of)
def test_delivery_knows_of_the_network_only_its_effects(path: Path) -> None:
    assert not [name for name in imports(path) if name.startswith("zsmtp.net") and "effects" not in name]


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room_of(name_of(p)) in PURE_ROOMS or name_of(p) in PURE_MODULES], ids=name_of
)
def test_the_core_does_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not {"open", "print", "input"} & calls
