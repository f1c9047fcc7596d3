"""``zsmtp check``: judges mail from a sender on this machine as receivers do.

It makes lookups only, with the resolver of deliveries; with ``--connect`` it also connects to the sender's own mail
exchangers and compares their certificates with their TLSA records and their policy. The checks and their grades are in
``zsmtp.sender.checks``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.backends import ClientBackends
from zsmtp.cli.configuration import Sending, add_options, read_sending
from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.probe import RecipientQuestion
from zsmtp.cli.senderside import GRADE_STYLES, add_finding
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import look_of
from zsmtp.client.addresslist import read_address
from zsmtp.client.ownsender import direct_only, own_sender
from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.reasons import reason_of
from zsmtp.dns.ip import canonical_ip, unmapped
from zsmtp.dns.literal import domain_problem
from zsmtp.errors import SubmissionError
from zsmtp.escape import escape
from zsmtp.events import ignore
from zsmtp.idn import to_ascii
from zsmtp.sender.checks import check_sender
from zsmtp.sender.exchangers import TriedExchanger, check_exchanger
from zsmtp.sender.findings import Grade, SenderFacts, SenderFinding, finding_document
from zsmtp.sender.receivers import receivers
from zsmtp.signing.keyring import from_domains
from zsmtp.signing.sign import read_header
from zsmtp.text.lines import line
from zsmtp.text.look import Style
from zsmtp.text.tree import Node, draw

_HEADER = 1 << 18  # octets read from a message
_EPILOG = """\
exit status: 0 no fault; 1 some receiver will refuse or discard the mail; 64 wrong usage; 66 or 77 a file that cannot be
read; 75 a lookup failed, and there is no other fault; 78 a bad configuration. (bulk) marks requirements for senders of
5,000 messages a day."""


def make_parser() -> Parser:
    """The command line."""
    parser = command_parser("check", "Show how receivers will judge mail from a sender.", epilog=_EPILOG)
    parser.add_argument("sender", metavar="SENDER", help="the address that mail comes from, or its domain")
    parser.add_argument(
        "--ip",
        action="append",
        metavar="ADDRESS",
        default=[],
        help="an address that mail comes from; without it those of this machine, by its routes",
    )
    parser.add_argument("--from", dest="author", metavar="DOMAIN", default="", help="the domain in From, if another")
    parser.add_argument("--message", metavar="FILE", help="a message whose header is checked, too")
    parser.add_argument(
        "--connect", action="store_true", help="try the sender's own mail exchangers: certificates, TLSA, policy"
    )
    parser.add_argument("--json", action="store_true", help="print JSON (zsmtp.check/1)")
    add_options(parser)
    return parser


def run(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    options = make_parser().parse_args(arguments)
    sending = read_sending(options)
    checked = _check(options, sending)
    if options.json:
        json.dump(_document(checked), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        look = look_of(sys.stdout, options.color)
        sys.stdout.write("".join(f"{text}\n" for text in draw(_tree(checked), look)))
        sys.stdout.write(_zone_entries(checked.findings))
    return status_of(checked.findings)


class _Checked(NamedTuple):
    """A sender as named by the options, the known facts about it, and the findings."""

    address: str
    sender: SenderFacts
    findings: list[SenderFinding]


def _check(options: argparse.Namespace, sending: Sending) -> _Checked:
    """Make all checks. Raises CommandFailed."""
    header = b""
    if options.message is not None:
        with reading(options.message), open(options.message, "rb") as file:
            header = file.read(_HEADER)
    address, author = _asked(options, header)
    reverse_path = sending.bounces.example_for(address.encode()).decode()
    with closing(ClientBackends(direct_only(sending.config))) as ways:
        domain = reverse_path.rpartition("@")[2]
        driver = ways.to(domain).driver(ignore)
        known = own_sender(
            sending.config,
            address,
            now=time.time(),
            author=author,
            reverse_path=reverse_path,
            seen=_addresses(options),
        )
        sender = replace(driver.run(known), header=header, adds_missing=sending.adds_missing)
        findings = driver.run(check_sender(sender))
        if options.connect:
            bounce = None if reverse_path != address else RecipientQuestion(b"", address.encode())
            tried = _try_exchangers(domain, ways, bounce)
            for one in tried:
                findings += [one] if isinstance(one, SenderFinding) else driver.run(check_exchanger(one, sender.now))
    return _Checked(address, sender, findings)


def status_of(findings: list[SenderFinding]) -> int:
    """The exit status by the worst finding."""
    grades = {one.grade for one in findings}
    if Grade.REFUSED in grades:
        return Exit.NEGATIVE
    return Exit.TEMPORARY if Grade.UNKNOWN in grades else Exit.OK


def _asked(options: argparse.Namespace, header: bytes) -> tuple[str, str]:
    """The address to check, and the domain in From; domains in A-labels. Raises CommandFailed.

    Without ``--from`` that is the domain of the message, if there is a message and its From has one domain.
    """
    local, domain = "postmaster", options.sender
    if "@" in options.sender:
        try:
            local, _, domain = read_address(options.sender, "SENDER").decode().rpartition("@")
        except SubmissionError as error:
            raise CommandFailed(Exit.USAGE, str(error)) from error
    names = {}
    for word, text in (("SENDER", domain), ("--from", options.author or domain)):
        name = to_ascii(text)
        if name is None or domain_problem(name) is not None:
            raise CommandFailed(Exit.USAGE, f"{word}: {escape(text[:120])} is no domain")
        names[word] = name
    written = () if options.author else from_domains(read_header(header))
    return f"{local}@{names['SENDER']}", written[0] if len(written) == 1 else names["--from"]


def _addresses(options: argparse.Namespace) -> tuple[str, ...]:
    """The addresses that receivers see, if the options name them. Raises CommandFailed."""
    found = []
    for text in options.ip:
        address = canonical_ip(text)
        if address is None:
            raise CommandFailed(Exit.USAGE, f"--ip: {escape(text[:80])} is no address")
        found.append(unmapped(address))
    return tuple(dict.fromkeys(found))


def _try_exchangers(
    domain: str, ways: ClientBackends, bounce: RecipientQuestion | None
) -> list[SenderFinding | TriedExchanger]:
    """The result of a connection to each mail exchanger of a domain; ``bounce`` is begun with each of them."""
    from zsmtp.cli.explain import PROBE_TIME, Explainer

    found = Explainer(ways, loops_allowed=True, probe_time=PROBE_TIME).explain(domain, question=bounce)
    failure = found.plan.route.failure
    if failure is not None:
        return [SenderFinding("exchanger", Grade.REFUSED, f"no bounce can be delivered: {escape(failure.text[:300])}")]
    tried: list[SenderFinding | TriedExchanger] = []
    for endpoint, probe in found.probes.items():
        verdict = probe.answer.verdict if probe.answer is not None else None
        tried.append(
            TriedExchanger(
                endpoint.host,
                endpoint.address,
                endpoint.port,
                problem="" if probe.verdict is None else reason_of(probe.verdict),
                session=probe.judgement.text if probe.judgement is not None else "in clear",
                leaf=None if probe.facts is None else probe.facts.leaf,
                chain=() if probe.facts is None else probe.facts.chain,
                bounce="" if verdict is None or probe.answer is None else probe.answer.words,
                refused=verdict is not None and verdict.fate is Disposition.FAILED,
            )
        )
    return tried


# ----------------------------------------------------------------------- output


def _tree(checked: _Checked) -> Node:
    sender, findings = checked.sender, checked.findings
    worst = max((one.grade for one in findings), key=list(Grade).index)
    words = {
        Grade.REFUSED: "some receivers will refuse this mail",
        Grade.WEAK: "some receivers may treat this mail as spam",
        Grade.UNKNOWN: "some lookups failed",
    }
    root = Node(
        line(escape(checked.address), Style.STRONG)
        + line(": ")
        + line(words.get(worst, "no fault found"), GRADE_STYLES[worst])
    )
    root.fact("from", line(", ".join(sender.addresses) or "an unknown address"))
    root.fact("greets as", line(escape(sender.helo)))
    if sender.address != checked.address:
        root.fact("return path", line(escape(sender.address)))
    if sender.author_domain != sender.domain:
        root.fact("From", line(sender.author_domain))
    for one in findings:
        node = add_finding(root, one, with_lookups=False)
        if one.receivers:
            node.fact("required by", line(", ".join(one.receivers)))
    return root


def _zone_entries(findings: list[SenderFinding]) -> str:
    """The records to publish as zone file entries, without wrapped lines."""
    entries: dict[str, str] = {}
    for one in findings:
        if one.publish:
            entries.setdefault(one.publish, one.topic)
    if not entries:
        return ""
    text = "".join(f"; {topic}\n{entry}" for entry, topic in entries.items())
    return f"\n; publish these records; they replace existing ones of the same kind\n{text}"


def _document(checked: _Checked) -> dict[str, object]:
    sender = checked.sender
    return {
        "schema": "zsmtp.check/1",
        "sender": checked.address,
        "return_path": sender.address,
        "from": sender.author_domain,
        "addresses": list(sender.addresses),
        "helo": sender.helo,
        "findings": [finding_document(one) for one in checked.findings],
        "receivers": [
            {"name": one.name, "source": one.source, "since": one.since, "seen": one.seen} for one in receivers()
        ],
    }
