"""Tables that the code answers: what a reply means, what protection is required, how a command can end.

Directives: ``phase-table``, ``verdict-table``, ``tls-table`` (with the name of one of :data:`TLS_TABLES`),
``exit-table``, ``retry-table``, ``notify-table``, ``automatic-table``. Each asks the functions that deliveries ask, for
one case after the other.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zsmtp.cli import sysexits
from zsmtp.delivery.outcome import Peer, from_reply
from zsmtp.delivery.outcome import Scope as Concern
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.destination import DestinationRequest, plan_destination
from zsmtp.net.scripted import ScriptedNetwork
from zsmtp.proto.phase import FINAL_PHASES, RULES, Phase, ReplyMeaning, Timeouts, judge
from zsmtp.proto.plan import TLSDemand
from zsmtp.proto.reply import Reply
from zsmtp.queue import notices, schedule
from zsmtp.queue.states import NoticeKind, QueuedMessage, State
from zsmtp.tls.policy import Barred, Level, Requirement, STSFinding, STSMode, TLSPolicy, requirement

Rows = Iterable[Sequence[str]]


def as_rest(header: Sequence[str], rows: Rows, widths: str = "auto") -> str:
    """A table as reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [header, *rows]:
        lines += [f"   {'*' if index == 0 else ' '} - {cell}" for index, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------------ phases


def phase_table() -> str:
    """The rows of ``zsmtp.proto.phase``."""
    rows = []
    for phase, rule in RULES.items():
        rows.append((phase.value, rule.codes, f"{Timeouts().of(rule.wait):.0f} s ({rule.wait.value})", rule.words))
    return as_rest(("Phase", "Success", "Wait", "In words"), rows)


_ASKED = (Phase.GREETING, Phase.EHLO, Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT)
_CONCERNS = {
    Concern.RECIPIENT: "that recipient",
    Concern.MESSAGE: "all recipients of the message",
    Concern.HOST: "the host: the next candidate is asked",
    Concern.SESSION: "the session",
}
_SAID: dict[str, Sequence[int]] = {  # headline, and the codes it stands for
    "250 to 259": range(250, 260),
    "other 2xx": (*range(200, 250), *range(260, 300)),
    "3xx": range(300, 400),
    "4xx": (421, 450, 451, 452),
    "500 to 504, not 503": (500, 501, 502, 504),
    "503 and 530": (503, 530),
    "other 5xx": (521, 550, 552, 553, 554, 571),
}


def _verdict(phase: Phase, code: int) -> str:
    result = judge(phase, code)
    if result is ReplyMeaning.DISORDER:
        return "broken dialogue: in doubt" if phase in FINAL_PHASES else "broken dialogue"
    if result is ReplyMeaning.SUCCESS and phase is not Phase.CONTENT:
        return "go on"
    peer = Peer(Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET))
    return from_reply(phase, Reply(code, (b"",)), result, "", enhanced=False, peer=peer).fate.value


def verdict_table() -> str:
    """What a reply of each kind leads to in each phase."""
    rows = []
    for phase in _ASKED:
        cells = []
        for codes in _SAID.values():
            found: dict[str, list[int]] = {}
            for code in codes:
                found.setdefault(_verdict(phase, code), []).append(code)
            assert len(found) == 1, (phase, found)
            cells.append(next(iter(found)))
        peer = Peer(Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET))
        refused = from_reply(phase, Reply(550, (b"",)), ReplyMeaning.PERMANENT, "", enhanced=False, peer=peer)
        rows.append((phase.value, *cells, _CONCERNS[refused.level]))
    return as_rest(("Phase", *_SAID, "A refusal concerns"), rows)


# --------------------------------------------------------------------------------------------------------------- TLS

_ZONE = "example.org MX 10 mx.example.org\nmx.example.org A 192.0.2.1\n"
_TLSA = "_25._tcp.mx.example.org TLSA "
_DIGEST = "ab" * 32
ZONES = {
    "not signed": _ZONE,
    "signed, no TLSA": f"{_ZONE}example.org SECURE\n",
    "signed, usable TLSA": f"{_ZONE}example.org SECURE\n{_TLSA}3 1 1 {_DIGEST}\n",
    "signed, unusable TLSA": f"{_ZONE}example.org SECURE\n{_TLSA}1 1 1 {_DIGEST}\n",
    "TLSA lookup fails": f"{_ZONE}example.org SECURE\n_25._tcp.mx.example.org FAIL SERVFAIL TLSA\n",
}
STS = {
    "no policy": None,
    "enforce, listed": STSFinding(mode=STSMode.ENFORCE, listed=True),
    "enforce, not listed": STSFinding(mode=STSMode.ENFORCE, listed=False),
    "testing, listed": STSFinding(mode=STSMode.TESTING, listed=True),
    "testing, not listed": STSFinding(mode=STSMode.TESTING, listed=False),
}
_NAMES = ("mail.example.org",)
_PIN = bytes(32)


def ask(zone: str, policy: TLSPolicy, sts: STSFinding | None = None, wish: TLSDemand = TLSDemand.NONE) -> str:
    """What a session with the exchanger must be, in a few words."""
    network = ScriptedNetwork({}, dns=ZONES[zone])
    request = DestinationRequest(destination="example.org", shuffle=lambda items: None)
    plan = network.run(plan_destination(request))
    found: Requirement | Barred = network.run(
        requirement(plan, plan.candidates[0].endpoint, policy, sts=sts, wish=wish)
    )
    if isinstance(found, Barred):
        return f"not used now: ``{found.problem.value}``"
    word = f"``{found.level.value}``"
    return f"{word}, trial" if found.trial is not None else word


def _policy(level: Level, **more: Any) -> TLSPolicy:
    return TLSPolicy(level=level, fingerprints=(_PIN,) if level is Level.FINGERPRINT else (), **more)


def _levels() -> str:
    rows = []
    for level in Level:
        if level in (Level.DANE, Level.DANE_ONLY):
            continue
        network = ScriptedNetwork({}, dns=_ZONE)
        plan = network.run(plan_destination(DestinationRequest(destination="example.org", shuffle=lambda items: None)))
        found = network.run(requirement(plan, plan.candidates[0].endpoint, _policy(level)))
        assert isinstance(found, Requirement)
        names = " or ".join(f"``{name}``" for name in found.names)
        proof = f"chain, and a name of {names}" if names else "a known certificate or key"
        rows.append(
            (
                f"``{level.value}``",
                "yes" if found.wants_tls else "no",
                "no" if found.needs_tls else "yes",
                proof if found.authenticates else "nothing",
            )
        )
    return as_rest(("Level", "STARTTLS where offered", "Mail may go in clear", "The peer must prove"), rows)


def _dane() -> str:
    policies = {
        "``none`` + DANE": TLSPolicy(level=Level.NONE, dane=True),
        "``may`` + DANE": TLSPolicy(level=Level.MAY, dane=True),
        "``encrypt`` + DANE": TLSPolicy(level=Level.ENCRYPT, dane=True),
        "``secure`` + DANE": TLSPolicy(level=Level.SECURE, dane=True),
        "``dane``": TLSPolicy(level=Level.DANE),
        "``dane-only``": TLSPolicy(level=Level.DANE_ONLY),
        "``secure`` with ``match=`` + DANE": TLSPolicy(level=Level.SECURE, match=_NAMES, dane=True),
        "``fingerprint`` + DANE": _policy(Level.FINGERPRINT, dane=True),
    }
    rows = [(name, *(ask(zone, policy) for zone in ZONES)) for name, policy in policies.items()]
    return as_rest(("Configured", *ZONES), rows)


def _sts() -> str:
    policies = {f"``{level.value}``": _policy(level) for level in Level if level not in (Level.DANE, Level.DANE_ONLY)}
    policies["``secure`` with ``match=``"] = TLSPolicy(level=Level.SECURE, match=_NAMES)
    rows = [(name, *(ask("not signed", policy, sts) for sts in STS.values())) for name, policy in policies.items()]
    return as_rest(("Configured", *STS), rows)


def _both() -> str:
    policy = TLSPolicy(level=Level.MAY, dane=True)
    rows = [(zone, *(ask(zone, policy, sts) for sts in STS.values())) for zone in ZONES]
    return as_rest(("DANE: the zone is", *(f"MTA-STS: {name}" for name in STS)), rows)


def _wishes() -> str:
    wishes = {
        "no wish": TLSDemand.NONE,
        "REQUIRETLS": TLSDemand.REQUIRETLS,
        "TLS-Required: No": TLSDemand.TLS_OPTIONAL,
    }
    cases: dict[str, Callable[[TLSDemand], str]] = {
        "``may``, zone not signed": lambda wish: ask("not signed", TLSPolicy(), wish=wish),
        "``may`` + DANE, signed, no TLSA": lambda wish: ask("signed, no TLSA", TLSPolicy(dane=True), wish=wish),
        "``may`` + DANE, usable TLSA": lambda wish: ask("signed, usable TLSA", TLSPolicy(dane=True), wish=wish),
        "``may``, MTA-STS enforce, listed": lambda wish: ask("not signed", TLSPolicy(), STS["enforce, listed"], wish),
        "``may``, MTA-STS testing, not listed": lambda wish: ask(
            "not signed", TLSPolicy(), STS["testing, not listed"], wish
        ),
        "``encrypt``": lambda wish: ask("not signed", TLSPolicy(level=Level.ENCRYPT), wish=wish),
        "``fingerprint``": lambda wish: ask("not signed", _policy(Level.FINGERPRINT), wish=wish),
        "``dane-only``, usable TLSA": lambda w: ask("signed, usable TLSA", TLSPolicy(level=Level.DANE_ONLY), wish=w),
    }
    return as_rest(
        ("Without a wish", *wishes), [(name, *(case(w) for w in wishes.values())) for name, case in cases.items()]
    )


TLS_TABLES = {"levels": _levels, "dane": _dane, "mta-sts": _sts, "both": _both, "wishes": _wishes}


# ------------------------------------------------------------------------------------------------------ exit statuses


def exit_table() -> str:
    """The members of ``zsmtp.cli.sysexits.Exit`` with the comment that stands behind each."""
    source = inspect.getsource(sysexits)
    lines = source.splitlines()
    rows = []
    tree = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Exit")
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            comment = lines[node.lineno - 1].partition("#")[2].strip()
            rows.append((str(sysexits.Exit[node.targets[0].id].value), comment))
    return as_rest(("Status", "Meaning"), rows)


# --------------------------------------------------------------------------------------------------------- the queue


def members(enum: type[Enum]) -> dict[str, str]:
    """The members of an enum by name, with the documentation that stands beneath each."""
    tree = ast.parse(inspect.getsource(enum))
    assert isinstance(tree.body[0], ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for node in tree.body[0].body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = " ".join(str(node.value.value).split())
    return found


def retry_table() -> str:
    """The classes of failures with their default schedules."""
    policy = schedule.RetryPolicy()
    rows = [
        (f"``{failure.value}``", meaning, f"``{policy.schedule(failure)}``")
        for name, meaning in members(schedule.FailureClass).items()
        for failure in (schedule.FailureClass[name],)
    ]
    return as_rest(("Class", "When", "Tried again after"), rows, widths="15 50 35")


def notify_table() -> str:
    """Which notices are made, by what was asked for."""
    asked = {"nothing": None, **{f"``{word}``": word.encode() for word in ("NEVER", "SUCCESS", "FAILURE", "DELAY")}}
    message = QueuedMessage(id=0, sender=b"ann@example.org", submitted=0, size=0, recipients=1)
    rows = [
        (name, *("yes" if notices.permitted(kind, notify, message) else "no" for kind in NoticeKind))
        for name, notify in asked.items()
    ]
    return as_rest(("``NOTIFY``", *(kind.value for kind in NoticeKind)), rows)


def automatic_table() -> str:
    """Which notices are made about automatic mail."""
    rows = []
    for name, meaning in members(notices.Automatic).items():
        kept = notices.Automatic[name].value
        message = QueuedMessage(
            id=0, sender=b"a@b", submitted=0, size=0, recipients=1, options={notices.AUTOMATIC: kept}
        )
        found = [kind.value for kind in NoticeKind if notices.permitted(kind, None, message)]
        asked = [kind.value for kind in NoticeKind if notices.permitted(kind, b"SUCCESS,FAILURE,DELAY", message)]
        rows.append((meaning, ", ".join(found) or "none", ", ".join(asked) or "none"))
    return as_rest(("The message", "Without NOTIFY", "At most"), rows, widths="60 20 20")


def state_table() -> str:
    """The states of a recipient, in the order in which they count."""
    order = (State.ENDED, State.HELD, State.LEASED, State.DUE)
    meanings = members(State)
    return as_rest(
        ("State", "What it means"), [(f"``{one.value}``", meanings[one.name]) for one in order], widths="15 85"
    )


# --------------------------------------------------------------------------------------------------------- directives


class _Table(SphinxDirective):
    make: ClassVar[Callable[[], str]]

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(type(self).make())


class PhaseTable(_Table):
    """``.. phase-table::``"""

    make = staticmethod(phase_table)


class VerdictTable(_Table):
    """``.. verdict-table::``"""

    make = staticmethod(verdict_table)


class ExitTable(_Table):
    """``.. exit-table::``"""

    make = staticmethod(exit_table)


class RetryTable(_Table):
    """``.. retry-table::``"""

    make = staticmethod(retry_table)


class NotifyTable(_Table):
    """``.. notify-table::``"""

    make = staticmethod(notify_table)


class AutomaticTable(_Table):
    """``.. automatic-table::``"""

    make = staticmethod(automatic_table)


class StateTable(_Table):
    """``.. queue-states::``"""

    make = staticmethod(state_table)


def named_test(
    name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, options: object = None, content: object = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """``:test:`tests/FILE.py::NAME```: where a promise is held."""
    return [nodes.literal(rawtext, text)], []


class TLSTable(SphinxDirective):
    """``.. tls-table:: NAME``"""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table of that name."""
        return self.parse_text_to_nodes(TLS_TABLES[self.arguments[0]]())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("phase-table", PhaseTable)
    app.add_directive("verdict-table", VerdictTable)
    app.add_directive("exit-table", ExitTable)
    app.add_directive("tls-table", TLSTable)
    app.add_directive("retry-table", RetryTable)
    app.add_directive("notify-table", NotifyTable)
    app.add_directive("automatic-table", AutomaticTable)
    app.add_directive("queue-states", StateTable)
    app.add_role("test", named_test)
    return {"parallel_read_safe": True}
