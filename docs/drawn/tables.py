"""Tables that the code answers: what a reply means, what protection is required, how a command can end.

Directives: ``phase-table``, ``verdict-table``, ``tls-table`` (with the name of one of :data:`TLS_TABLES`),
``exit-table``. Each asks the functions that deliveries ask, for one case after the other.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zsmtp.cli import sysexits
from zsmtp.delivery.outcome import Level as Concern
from zsmtp.delivery.outcome import Peer, from_reply
from zsmtp.dns.destination import DestinationRequest, plan_destination
from zsmtp.dns.plan import Endpoint, Family
from zsmtp.net.scripted import ScriptedNetwork
from zsmtp.proto.phase import RULES, Phase, Result, Timeouts, judge
from zsmtp.proto.plan import SenderWish
from zsmtp.proto.reply import Reply
from zsmtp.tls.policy import Barred, Level, Policy, Requirement, STSFinding, STSMode, requirement

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
        codes = "any 2xx" if rule.success is None else ", ".join(map(str, sorted(rule.success)))
        rows.append((phase.value, codes, f"{Timeouts().of(rule.wait):.0f} s ({rule.wait.value})", rule.words))
    return as_rest(("Phase", "Success", "Wait", "In words"), rows)


_ASKED = (Phase.GREETING, Phase.EHLO, Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT)
_CONCERNS = {
    Concern.RECIPIENT: "that recipient",
    Concern.MESSAGE: "all recipients of the message",
    Concern.HOST: "the host: the next candidate is asked",
    Concern.SESSION: "the session",
}
_SAID = {  # headline, and the codes it stands for
    "2xx": (200, 220, 250, 251, 252),
    "3xx": (334, 354),
    "4xx": (421, 450, 451, 452),
    "500 to 504, not 503": (500, 501, 502, 504),
    "503": (503,),
    "other 5xx": (521, 550, 552, 553, 554, 571),
}


def _verdict(phase: Phase, code: int) -> str:
    result = judge(phase, code)
    if result is Result.DISORDER:
        return "broken dialogue"
    if result is Result.SUCCESS and phase is not Phase.CONTENT:
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
            if len(found) == 1:
                cells.append(next(iter(found)))
            else:
                good = next(word for word in found if word != "broken dialogue")
                cells.append(f"{good} ({', '.join(map(str, found[good]))}), else broken dialogue")
        peer = Peer(Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET))
        refused = from_reply(phase, Reply(550, (b"",)), Result.PERMANENT, "", enhanced=False, peer=peer)
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


def ask(zone: str, policy: Policy, sts: STSFinding | None = None, wish: SenderWish = SenderWish.NONE) -> str:
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


def _policy(level: Level, **more: Any) -> Policy:
    return Policy(level=level, fingerprints=(_PIN,) if level is Level.FINGERPRINT else (), **more)


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
        "``none`` + DANE": Policy(level=Level.NONE, dane=True),
        "``may`` + DANE": Policy(level=Level.MAY, dane=True),
        "``encrypt`` + DANE": Policy(level=Level.ENCRYPT, dane=True),
        "``secure`` + DANE": Policy(level=Level.SECURE, dane=True),
        "``dane``": Policy(level=Level.DANE),
        "``dane-only``": Policy(level=Level.DANE_ONLY),
        "``secure`` with ``match=`` + DANE": Policy(level=Level.SECURE, match=_NAMES, dane=True),
        "``fingerprint`` + DANE": _policy(Level.FINGERPRINT, dane=True),
    }
    rows = [(name, *(ask(zone, policy) for zone in ZONES)) for name, policy in policies.items()]
    return as_rest(("Configured", *ZONES), rows)


def _sts() -> str:
    policies = {f"``{level.value}``": _policy(level) for level in Level if level not in (Level.DANE, Level.DANE_ONLY)}
    policies["``secure`` with ``match=``"] = Policy(level=Level.SECURE, match=_NAMES)
    rows = [(name, *(ask("not signed", policy, sts) for sts in STS.values())) for name, policy in policies.items()]
    return as_rest(("Configured", *STS), rows)


def _both() -> str:
    policy = Policy(level=Level.MAY, dane=True)
    rows = [(zone, *(ask(zone, policy, sts) for sts in STS.values())) for zone in ZONES]
    return as_rest(("DANE: the zone is", *(f"MTA-STS: {name}" for name in STS)), rows)


def _wishes() -> str:
    wishes = {
        "no wish": SenderWish.NONE,
        "REQUIRETLS": SenderWish.REQUIRETLS,
        "TLS-Required: No": SenderWish.TLS_OPTIONAL,
    }
    cases: dict[str, Callable[[SenderWish], str]] = {
        "``may``, zone not signed": lambda wish: ask("not signed", Policy(), wish=wish),
        "``may`` + DANE, signed, no TLSA": lambda wish: ask("signed, no TLSA", Policy(dane=True), wish=wish),
        "``may`` + DANE, usable TLSA": lambda wish: ask("signed, usable TLSA", Policy(dane=True), wish=wish),
        "``may``, MTA-STS enforce, listed": lambda wish: ask("not signed", Policy(), STS["enforce, listed"], wish),
        "``may``, MTA-STS testing, not listed": lambda wish: ask(
            "not signed", Policy(), STS["testing, not listed"], wish
        ),
        "``encrypt``": lambda wish: ask("not signed", Policy(level=Level.ENCRYPT), wish=wish),
        "``fingerprint``": lambda wish: ask("not signed", _policy(Level.FINGERPRINT), wish=wish),
        "``dane-only``, usable TLSA": lambda w: ask("signed, usable TLSA", Policy(level=Level.DANE_ONLY), wish=w),
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
    return {"parallel_read_safe": True}
