"""The sender's side of an explanation: is mail signed, is the source address authorised, does it pass DMARC.

It shows the findings of ``zsmtp.sender.authentication``, for the source addresses of connections to this destination.
None of them makes an explanation fail: after a failed lookup or an unreadable file the finding is unknown.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zsmtp.client.ownsender import own_sender, seen_addresses, seen_of_relay
from zsmtp.dns.literal import domain_problem
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.events import ignore
from zsmtp.idn import to_ascii
from zsmtp.records import replace
from zsmtp.sender.authentication import check_authentication
from zsmtp.sender.findings import Grade, SenderFacts, SenderFinding, finding_document
from zsmtp.text.lines import line
from zsmtp.text.look import Style
from zsmtp.text.tree import Node

if TYPE_CHECKING:
    from zsmtp.cli.backends import ClientBackends
    from zsmtp.cli.configuration import Sending
    from zsmtp.cli.explanation import Explanation
    from zsmtp.client.config import Config

GRADE_STYLES = {
    Grade.GOOD: Style.GOOD,
    Grade.NOTE: Style.PLAIN,
    Grade.UNKNOWN: Style.WARN,
    Grade.WEAK: Style.WARN,
    Grade.REFUSED: Style.BAD,
}


@dataclass(frozen=True, slots=True)
class SenderView:
    """A sender as receivers will see it: its address, the known facts about it, and the findings."""

    address: str
    facts: SenderFacts
    findings: tuple[SenderFinding, ...]


def view_sender(found: Explanation, sender: bytes, sending: Sending, ways: ClientBackends) -> SenderView | None:
    """The receivers' view of mail from ``sender`` delivered as explained; None for a sender without a domain."""
    local, _, name = sender.decode("utf-8", "replace").rpartition("@")
    domain = to_ascii(name) or ""
    if domain_problem(domain) is not None:
        return None
    address = f"{local}@{domain}"
    seen: tuple[str, ...] = ()
    problem = ""
    if found.via:
        problem = seen_of_relay(escape(found.via))
    elif found.introductions:
        seen, problem = seen_addresses([one.source for one in found.introductions.values() if one.source])
    driver = ways.asking(ignore)
    reverse_path = sending.bounces.example_for(address.encode()).decode()

    def known(config: Config) -> SenderFacts:
        return driver.run(
            own_sender(config, address, now=time.time(), reverse_path=reverse_path, seen=seen, address_problem=problem)
        )

    unread = ""
    try:
        facts = known(sending.config)
    except ConfigError as error:  # the user may lack the permission to read the keys
        facts, unread = known(replace(sending.config, dkim=())), str(error)
    findings = driver.run(check_authentication(facts))
    if unread:
        unknown = SenderFinding("DKIM", Grade.UNKNOWN, f"it is not known what signs: {escape(unread)}")
        findings = [unknown if one.topic == "DKIM" else one for one in findings if one.topic != "alignment"]
    return SenderView(address, facts, tuple(findings))


def add_finding(parent: Node, one: SenderFinding, *, with_lookups: bool) -> Node:
    """Add a branch for a finding; with ``with_lookups`` it has its lookups even if the grade is good."""
    node = parent.add(
        line(one.topic) + line(" ") + line(one.grade.value, GRADE_STYLES[one.grade]) + line(f": {one.text}")
    )
    for text in one.looked_up if with_lookups or one.grade is not Grade.GOOD else ():
        node.fact("looked up", line(text))
    return node


def add_view(root: Node, view: SenderView) -> None:
    """Add a branch for a sender."""
    branch = root.add(line("mail of ") + line(escape(view.address), Style.NAME))
    if view.facts.address != view.address:
        branch.fact("return path", line(escape(view.facts.address)))
    for one in view.findings:
        add_finding(branch, one, with_lookups=True)
    if any(one.grade in (Grade.WEAK, Grade.REFUSED) for one in view.findings):
        more = f"zsmtp check {escape(view.address)} shows which receivers require it, and what to publish"
        branch.fact("more", line(more))


def view_document(view: SenderView) -> dict[str, Any]:
    """A sender as a JSON object."""
    return {
        "address": view.address,
        "return_path": view.facts.address,
        "addresses": list(view.facts.addresses),
        "signatures": [
            {"domain": key.domain, "selector": key.selector, "algorithm": key.algorithm.value, "bits": key.bits}
            for key in view.facts.keys
        ],
        "findings": [finding_document(one) for one in view.findings],
    }
