"""``zsmtp check``: what receivers will think of mail from a sender that is sent from this machine.

Lookups only, by the same resolver as deliveries; with ``--connect`` the sender's own mail exchangers are tried, too:
what they show is held against their TLSA records and their policy. What is looked at, and how it is graded, is in
``zsmtp.sender.checks``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.backends import ClientBackends
from zsmtp.cli.configuration import add_options, read_configuration
from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import look_of
from zsmtp.client.addresslist import read_address
from zsmtp.delivery.reasons import reason_of
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.heloname import helo_name
from zsmtp.dns.ip import canonical_ip
from zsmtp.dns.literal import domain_problem
from zsmtp.errors import ConnectError, SubmissionError
from zsmtp.escape import escape
from zsmtp.events import ignore
from zsmtp.idn import to_ascii
from zsmtp.net.identity import source_address
from zsmtp.sender.checks import Grade, PublishedKey, SenderFacts, SenderFinding, check_sender
from zsmtp.sender.receivers import receivers
from zsmtp.text.lines import line
from zsmtp.text.look import Style
from zsmtp.text.tree import Node, draw

if TYPE_CHECKING:
    from zsmtp.client.config import Config

_HEADER = 1 << 18  # octets of a message that are read
_PROBES = (Endpoint("", "192.0.2.1", 25, Family.INET), Endpoint("", "2001:db8::1", 25, Family.INET6))
_EPILOG = """\
exit status: 0 nothing is wrong; 1 mail will be refused, or thrown away, by somebody; 64 wrong usage; 66 or 77 a file
that cannot be read; 75 something could not be looked up, and nothing else is wrong; 78 a bad configuration. (bulk) is
what is asked of those who send 5,000 messages a day."""
_STYLES = {
    Grade.GOOD: Style.GOOD,
    Grade.NOTE: Style.PLAIN,
    Grade.UNKNOWN: Style.WARN,
    Grade.WEAK: Style.WARN,
    Grade.REFUSED: Style.BAD,
}


def make_parser() -> Parser:
    """The command line."""
    parser = command_parser("check", "Show what receivers will think of mail from a sender.", epilog=_EPILOG)
    parser.add_argument("sender", metavar="SENDER", help="the address that mail comes from, or its domain")
    parser.add_argument(
        "--ip",
        action="append",
        metavar="ADDRESS",
        default=[],
        help="an address that mail comes from; without it those of this machine, by its routes",
    )
    parser.add_argument("--from", dest="author", metavar="DOMAIN", default="", help="the domain in From, if another")
    parser.add_argument("--message", metavar="FILE", help="a message whose header is looked at, too")
    parser.add_argument(
        "--connect", action="store_true", help="try the sender's own mail exchangers: certificates, TLSA, policy"
    )
    parser.add_argument("--json", action="store_true", help="print JSON (zsmtp.check/1)")
    add_options(parser)
    return parser


def run(arguments: list[str]) -> int:
    """Run the command; the exit status."""
    options = make_parser().parse_args(arguments)
    config = read_configuration(options)
    sender = _facts(options, config)
    with closing(ClientBackends(config)) as ways:
        driver = ways.to(sender.domain).driver(ignore)
        address = sender.addresses[0] if sender.addresses else None
        host_name = os.uname().nodename
        helo = driver.run(helo_name(address, configured=config.helo_name or None, host_name=host_name))
        sender = replace(sender, helo=helo)
        findings = driver.run(check_sender(sender))
    if options.connect:
        findings += _exchangers(sender.domain, config)
    if options.json:
        json.dump(_document(sender, findings), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        look = look_of(sys.stdout, options.color)
        sys.stdout.write("".join(f"{text}\n" for text in draw(_tree(sender, findings), look)))
    return status_of(findings)


def status_of(findings: list[SenderFinding]) -> int:
    """The exit status."""
    grades = {one.grade for one in findings}
    if Grade.REFUSED in grades:
        return Exit.NEGATIVE
    return Exit.TEMPORARY if Grade.UNKNOWN in grades else Exit.OK


def _facts(options: argparse.Namespace, config: Config) -> SenderFacts:
    """What is known of the sender beforehand. Raises CommandFailed."""
    given = options.sender if "@" in options.sender else f"postmaster@{options.sender}"
    try:
        local, _, domain = read_address(given, "SENDER").decode().rpartition("@")
    except SubmissionError as error:
        raise CommandFailed(Exit.USAGE, str(error)) from error
    names = {}
    for word, text in (("SENDER", domain), ("--from", options.author or domain)):
        name = to_ascii(text)
        if name is None or domain_problem(name) is not None:
            raise CommandFailed(Exit.USAGE, f"{word}: {escape(text[:120])} is no domain")
        names[word] = name
    addresses, problem = _addresses(options)
    header = b""
    if options.message is not None:
        with reading(options.message), open(options.message, "rb") as file:
            header = file.read(_HEADER)
    return SenderFacts(
        address=f"{local}@{names['SENDER']}",
        addresses=addresses,
        helo="",
        author=names["--from"],
        keys=_keys(config),
        header=header,
        now=time.time(),
        problems={"addresses": problem} if problem else {},
    )


def _addresses(options: argparse.Namespace) -> tuple[tuple[str, ...], str]:
    """The addresses that mail comes from, and what keeps them from being known."""
    found = []
    for text in options.ip:
        address = canonical_ip(text)
        if address is None:
            raise CommandFailed(Exit.USAGE, f"--ip: {escape(text[:80])} is no address")
        found.append(address)
    if found:
        return tuple(dict.fromkeys(found)), ""
    for probe in _PROBES:
        try:
            found.append(source_address(probe, None))
        except ConnectError:
            continue
    public = [one for one in found if ip_address(one).is_global]
    if public:
        return tuple(public), ""
    if found:
        return (), f"{', '.join(found)} is a private address: say with --ip which one receivers see"
    return (), "this machine has no address that reaches the Internet: say with --ip which one receivers see"


def _keys(config: Config) -> tuple[PublishedKey, ...]:
    """The keys of the configuration, their public halves."""
    from zsmtp.signing.keys import read_key

    found = []
    for one in config.dkim:
        private = read_key(one.key_file, lambda text: None)
        found.append(
            PublishedKey(one.domain_ascii, one.selector_ascii, private.algorithm, private.public_key, private.bits)
        )
    return tuple(found)


def _exchangers(domain: str, config: Config) -> list[SenderFinding]:
    """What the sender's own mail exchangers show: whether bounces, and answers, can be delivered there."""
    from zsmtp.cli.explain import PROBE_TIME, Explainer

    with closing(ClientBackends(config)) as ways:
        found = Explainer(ways, probe_time=PROBE_TIME).explain(domain)
    failure = found.plan.route.failure
    if failure is not None:
        return [SenderFinding("exchanger", Grade.REFUSED, f"no bounce can be delivered: {failure.text}")]
    findings = []
    for endpoint, probe in found.probes.items():
        where = f"{endpoint.host} [{endpoint.address}]"
        if probe.verdict is None:
            judged = f", {probe.judgement.text}" if probe.judgement is not None else ", in clear"
            findings.append(SenderFinding("exchanger", Grade.GOOD, f"{where} takes mail{judged}"))
        else:
            text = f"{where}: {escape(reason_of(probe.verdict)[:300])}"
            findings.append(SenderFinding("exchanger", Grade.WEAK, text))
    return findings


# ----------------------------------------------------------------------- output


def _tree(sender: SenderFacts, findings: list[SenderFinding]) -> Node:
    worst = max((one.grade for one in findings), key=list(Grade).index)
    words = {
        Grade.REFUSED: "mail will be refused by somebody",
        Grade.WEAK: "mail may be held for spam",
        Grade.UNKNOWN: "not everything could be found out",
    }
    root = Node(line(sender.address, Style.STRONG) + line(": ") + line(words.get(worst, "all is well"), _STYLES[worst]))
    root.fact("from", line(", ".join(sender.addresses) or "an address that is not known"))
    root.fact("greets as", line(escape(sender.helo)))
    if sender.author_domain != sender.domain:
        root.fact("From", line(sender.author_domain))
    for one in findings:
        node = root.add(line(one.topic) + line(" ") + line(one.grade.value, _STYLES[one.grade]) + line(f": {one.text}"))
        for text in one.looked_up if one.grade is not Grade.GOOD else ():
            node.fact("looked up", line(text))
        if one.receivers:
            node.fact("asked by", line(", ".join(one.receivers)))
        for number, text in enumerate(one.publish.splitlines()):
            node.fact("" if number else "publish", line(text.strip()))
    return root


def _document(sender: SenderFacts, findings: list[SenderFinding]) -> dict[str, object]:
    return {
        "schema": "zsmtp.check/1",
        "sender": sender.address,
        "from": sender.author_domain,
        "addresses": list(sender.addresses),
        "helo": sender.helo,
        "findings": [
            {
                "topic": one.topic,
                "grade": one.grade.value,
                "text": one.text,
                "looked_up": list(one.looked_up),
                "receivers": list(one.receivers),
                "publish": one.publish,
            }
            for one in findings
        ],
        "receivers": [
            {"name": one.name, "source": one.source, "since": one.since, "seen": one.seen} for one in receivers()
        ],
    }
