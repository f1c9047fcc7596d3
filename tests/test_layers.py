"""The order of the layers, held by walking every import: also those inside functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
MODULES = sorted((SOURCE / "zsmtp").rglob("*.py"))

# Each room with those it may import from, beside itself.
FLOOR = {"durations", "errors", "escape", "fieldtypes", "idn", "patterns", "records"}
LOW = FLOOR | {"events", "effects"}
BELOW = {
    **{room: set() for room in FLOOR},
    "durations": {"errors"},
    "fieldtypes": {"errors"},
    "idn": {"patterns"},
    "events": {"errors", "records"},
    "effects": {"errors", "records"},
    "text": FLOOR,
    "proto": FLOOR | {"events"},
    "body": LOW,
    "dns": LOW | {"proto", "body"},
    "tls": LOW | {"proto", "body", "dns"},  # DANE reads answers; dns knows nothing of TLS
    "signing": LOW | {"proto", "body", "dns"},
    "sender": LOW | {"proto", "body", "dns", "tls", "signing"},
    "net": LOW | {"proto", "body", "dns", "tls"},
    "delivery": LOW | {"proto", "body", "dns", "tls"},  # what it needs of net it awaits
    "observers": FLOOR | {"events", "text", "proto", "body", "dns", "tls", "net", "delivery"},
}
ENGINE = set(BELOW)
# The library: programs use it, and so do the queue, the server and the command; the agent does not.
LIBRARY = {"client": ENGINE, "aio": ENGINE | {"client", "queue"}}
PUBLIC = {"client", "aio", "errors", "queue"}  # where the names of the package itself come from
TOPS = {"zmailer", "queue", "server", "django", "testing", "cli"}
# Events and effects carry what they tell of as it is; its types are named for the type checker, never imported.
EXCEPTIONS = {
    ("zsmtp.events", f"zsmtp.{module}")
    for module in (
        "delivery.envelope",
        "delivery.outcome",
        "delivery.deliveryplan",
        "dns.answer",
        "dns.candidates",
        "proto.capabilities",
        "proto.phase",
        "proto.plan",
        "proto.reply",
        "tls.facts",
        "tls.judgement",
    )
} | {("zsmtp.errors", "zsmtp.client.report")}
EXCEPTIONS |= {
    ("zsmtp.effects", f"zsmtp.{module}")
    for module in (
        "dns.candidates",
        "tls.chain",
        "tls.context",
        "tls.facts",
        "tls.mtasts",
        "tls.resume",
    )
}

ALLOWED = {
    **BELOW,
    **LIBRARY,
    "": PUBLIC,
    "zmailer": ENGINE,
    "queue": ENGINE | {"client"},
    "django": ENGINE | {"client", "queue"},
    "server": ENGINE | set(LIBRARY) | {"queue"},
    "testing": ENGINE | {"client", "server"},
    "cli": ENGINE | set(LIBRARY) | TOPS,
}

FORBIDDEN = {"socket", "asyncio", "ssl", "time", "logging", "os", "random", "selectors", "threading", "sqlite3"}
PURE_ROOMS = {
    "text",
    "proto",
    "body",
    "delivery",
    "durations",
    "errors",
    "escape",
    "fieldtypes",
    "idn",
    "patterns",
    "records",
    "events",
    "effects",
}
PURE_MODULES = {
    f"zsmtp.dns.{name}"
    for name in (
        "answer",
        "candidates",
        "ip",
        "literal",
        "destination",
        "heloname",
        "cache",
        "static",
        "hosts",
        "resolver",
        "nameserver",
        "questioning",
    )
} | {f"zsmtp.net.{name}" for name in ("race", "script", "scripted")}
PURE_MODULES |= {"zsmtp.tls.https", "zsmtp.tls.mtasts"}
PURE_MODULES |= {
    f"zsmtp.sender.{name}" for name in ("spf", "dmarc", "findings", "authentication", "checks", "exchangers")
}
# Of the queue all decides but its stores and what runs them.
PURE_MODULES |= {
    f"zsmtp.queue.{name}"
    for name in (
        "addressrules",
        "bouncereport",
        "changes",
        "composer",
        "deliverystatus",
        "explanation",
        "conditions",
        "dividing",
        "fairness",
        "filter",
        "ids",
        "intake",
        "leases",
        "notices",
        "noticetext",
        "phrases",
        "quotas",
        "slots",
        "rules",
        "returnpath",
        "schedule",
        "settlement",
        "limits",
        "moves",
        "operators",
        "settling",
        "shaping",
        "site",
        "sql",
        "staged",
        "states",
        "store",
        "suppression",
        "wording",
    )
}
# All of tls/ decides; only contexts are made of files.
PURE_MODULES |= {
    f"zsmtp.tls.{path.stem}" for path in (SOURCE / "zsmtp/tls").glob("[a-z]*.py") if path.stem != "context"
}
# Of signing/ only what reads key files does not.
PURE_MODULES |= {
    f"zsmtp.signing.{path.stem}" for path in (SOURCE / "zsmtp/signing").glob("[a-z]*.py") if path.stem != "keys"
}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
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


@pytest.mark.parametrize(("module", "imported"), [("events", {"records"}), ("effects", {"errors", "records"})])
def test_exceptions_are_for_the_type_checker_only(module: str, imported: set[str]) -> None:
    tree = ast.parse((SOURCE / f"zsmtp/{module}.py").read_text())
    checked = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    tree.body.remove(checked)
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name for name in names if name.startswith("zsmtp")} == {f"zsmtp.{name}" for name in imported}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rules_are_coroutines_whose_effects_are_typed(path: Path) -> None:
    """A generator that is sent answers types none of them; only what is awaited may be one, as it defines itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Generator", "typing.Generator"):
            arguments = [ast.unparse(one) for one in node.slice.elts] if isinstance(node.slice, ast.Tuple) else []
            assert arguments[:2] != ["Any", "Any"], f"{path}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.FunctionDef) and node.returns is not None and node.name != "__await__":
            assert not ast.unparse(node.returns).startswith("Generator["), f"{path}:{node.lineno}: {node.name}"


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
