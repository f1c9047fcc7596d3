"""``zsmtp explain``: shows how mail to a domain or an address would be delivered, and why; ``--connect`` also tries it.

It queries name servers only, and with ``--connect`` opens a session with each candidate. The plan is the one that
delivery would execute (``zsmtp.delivery.deliveryplan``); ``--json`` prints it completely.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from zsmtp.cli.arguments import command_parser
from zsmtp.cli.backends import AgentBackends, Backend, Backends, ClientBackends
from zsmtp.cli.configuration import add_options, read_sending, refuse_options, within
from zsmtp.cli.explainjson import explain_document
from zsmtp.cli.explanation import Explanation, destination_of, explain
from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.picture import picture
from zsmtp.cli.probe import Probe, ProbeRecorder, RecipientQuestion, nothing_to_send, probe_candidate
from zsmtp.cli.sysexits import Exit, worst
from zsmtp.cli.terminal import look_of
from zsmtp.cli.waiting import WaitingNotices, waits_printed
from zsmtp.client.addresslist import read_address
from zsmtp.client.config import Config
from zsmtp.delivery.announce import with_fetch_events
from zsmtp.dns.answer import Query, RecordType
from zsmtp.dns.candidates import Candidate, Endpoint
from zsmtp.errors import SubmissionError
from zsmtp.escape import escape
from zsmtp.events import DeliveryStarted, Observer, PlanMade, combine, ignore
from zsmtp.net.identity import source_address
from zsmtp.observers.files import Tracing
from zsmtp.proto.plan import TLSDemand
from zsmtp.text.tree import draw

PROBE_TIME = 30.0  # the longest wait of a probe in seconds without --timeout
PROBES_AT_A_TIME = 8
NOTHING_ASKED = "a DOMAIN or ADDRESS is required, or --rcpt, --relay or --replay TRACE"

_DESCRIPTION = "Show what a delivery would do, and why: hosts, addresses, DNSSEC, DANE, MTA-STS, TLS, greeting, limits."
_EPILOG = """\
exit status: 0 everything asked about can be delivered to; 68 there is no such domain, it takes no mail, or its mail
would loop back to this machine; 75 a temporary failure (a lookup fails, no candidate may be used or, with --connect,
none opens a session); 69 with --connect, every host refuses permanently, with --rcpt, the recipient is refused; 64
wrong usage, 65 a file that is no trace, 66 or 77 a file that cannot be read, 78 a bad configuration. With --replay: the
status of the recorded delivery, as of zsmtp send."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("explain", _DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "what",
        nargs="*",
        metavar="DOMAIN|ADDRESS",
        help="a domain, [literal], or mail address; optional with a relay",
    )
    parser.add_argument("--json", action="store_true", help="print JSON (zsmtp.explain/1) with the plans complete")
    parser.add_argument(
        "--connect", action="store_true", help="connect to each candidate: greeting, EHLO, STARTTLS, EHLO, QUIT"
    )
    parser.add_argument(
        "--rcpt",
        action="append",
        metavar="ADDRESS",
        default=[],
        help="ask each candidate whether it takes mail for ADDRESS: as --connect, with MAIL, RCPT and RSET",
    )
    parser.add_argument(
        "--from",
        dest="sender",
        metavar="ADDRESS",
        default="<>",
        help="the sender: it may have a route, and its records are shown; with --rcpt also in MAIL (<>: none)",
    )
    parser.add_argument(
        "--no-sender-check",
        action="store_true",
        help="do not show the sender as receivers see it: SPF, DKIM, DMARC",
    )
    parser.add_argument(
        "--replay", action="append", metavar="TRACE", default=[], help="explain the delivery recorded in a trace file"
    )
    parser.add_argument(
        "--trace", metavar="PATH", help="with --connect: keep a trace of the probes, in a file or a directory"
    )
    parser.add_argument(
        "--agent", metavar="FLAGS", help="explain what the agent, smtp(8), would do when started with these flags"
    )
    parser.add_argument("--no-mx", action="store_true", help="the addresses of the domain itself, no MX records")
    add_options(parser)
    return parser


def run(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    options.connect = options.connect or bool(options.rcpt)
    if not (options.what or options.replay or options.rcpt or options.relay or options.config):
        parser.error(NOTHING_ASKED)
    if options.sender != "<>" and options.agent is not None and not options.rcpt:
        parser.error("--from goes with --rcpt: the agent has no routes of senders")
    if options.no_sender_check and (options.sender == "<>" or options.agent is not None):
        parser.error("--no-sender-check goes with --from, and not with --agent, which shows nothing about senders")
    if options.trace is not None and not options.connect:
        parser.error("--trace needs --connect: without it there is nothing to trace")
    if options.agent is not None:
        refuse_options(options, "--agent")
    explanations: list[Explanation] = []
    look = look_of(sys.stdout, options.color)
    for found in _explanations(options):
        explanations.append(found)
        if not options.json:
            gap = "\n" if len(explanations) > 1 else ""
            sys.stdout.write(gap + "".join(f"{line}\n" for line in draw(picture(found), look)))
            sys.stdout.flush()
    if options.json:
        json.dump(explain_document(explanations), sys.stdout, indent=2)
        sys.stdout.write("\n")
    return worst(one.status for one in explanations)


def _explanations(options: argparse.Namespace) -> Iterator[Explanation]:
    """The explanations one after the other, recorded deliveries first."""
    for path in options.replay:
        from zsmtp.cli.replay import replay

        yield replay(path)
    sender, questions = _questions(options)
    relayed = (options.relay or options.config) and not options.replay
    if options.what or questions or relayed:
        longest = (options.timeout or PROBE_TIME) if options.connect else None
        tracing = Tracing(options.trace, complain=_warn) if options.trace is not None else None
        sending = None if options.agent is not None else read_sending(options)
        ways: Backends = AgentBackends(options.agent) if sending is None else ClientBackends(sending.config)
        asked = options.what
        if not asked and not questions and sending is not None:
            asked = _relay_of(sending.config)  # every destination
        with closing(ways), waits_printed("zsmtp explain") as notices:
            explainer = Explainer(ways, use_mx=not options.no_mx, probe_time=longest, tracing=tracing, notices=notices)
            for one, question in (*((one, None) for one in asked), *questions.items()):
                found = explainer.explain(one, question=question, sender=sender)
                if sender and isinstance(ways, ClientBackends) and sending is not None and not options.no_sender_check:
                    from zsmtp.cli.senderside import view_sender

                    found = replace(found, sender=view_sender(found, sender, sending, ways))
                yield found


def _relay_of(config: Config) -> list[str]:
    """The one destination of all mail. Raises CommandFailed without a relay: then destinations are many."""
    if config.relay is None:
        raise CommandFailed(Exit.USAGE, f"{NOTHING_ASKED}; the configuration has no relay")
    return [str(config.relay)]


def _questions(options: argparse.Namespace) -> tuple[bytes, dict[str, RecipientQuestion]]:
    """The sender, and the questions to candidates, by recipient. Raises CommandFailed."""
    try:
        sender = read_address(options.sender, "sender")
        return sender, {
            address: RecipientQuestion(sender, read_address(address, "recipient")) for address in options.rcpt
        }
    except SubmissionError as error:
        what, _, problem = str(error).partition(" ")
        flag = "--from" if what.startswith("sender") else "--rcpt"
        raise CommandFailed(Exit.USAGE, f"{flag} {escape(problem)}") from error


class Explainer:
    """Explains one destination after the other, under one configuration.

    With ``loops_allowed`` this machine is a valid destination. With ``probe_time`` candidates are probed, with waits of
    at most so many seconds. ``tracing`` writes a trace of the probes: one document for each destination, whose
    candidates are then probed one after the other. ``notices`` reports long waits.
    """

    def __init__(
        self,
        ways: Backends,
        *,
        use_mx: bool = True,
        loops_allowed: bool = False,
        probe_time: float | None = None,
        tracing: Tracing | None = None,
        notices: WaitingNotices | None = None,
    ) -> None:
        self._notices = notices
        self._tracing = tracing
        self._use_mx = use_mx
        self._loops_allowed = loops_allowed
        self._probe_time = probe_time
        self._ways = ways

    def explain(
        self,
        asked: str,
        wish: TLSDemand = TLSDemand.NONE,
        question: RecipientQuestion | None = None,
        *,
        sender: bytes = b"",
    ) -> Explanation:
        """Explain one domain, literal or address, for mail from ``sender`` with the TLS demand ``wish``.

        Candidates are probed with the ``question``.
        """
        if self._tracing is None:
            return self._explain(asked, ignore, wish, question, sender)
        recorder = self._tracing.observer()
        recorder(DeliveryStarted(nothing_to_send(), destination_of(asked)))
        try:
            return self._explain(asked, recorder, wish, question, sender)
        finally:
            recorder.close()

    def _explain(
        self, asked: str, observer: Observer, wish: TLSDemand, question: RecipientQuestion | None, sender: bytes
    ) -> Explanation:
        way = self._ways.to(destination_of(asked), sender)
        request = way.request if self._use_mx else replace(way.request, use_mx=False)
        request = replace(request, loops_allowed=True) if self._loops_allowed else request
        driver = way.driver(self._watched(observer))
        identity = self._ways.identity
        bound = None if identity is None else identity.resolve(lambda name: driver.run(_addresses(name)))
        work = explain(
            asked,
            request,
            way.settings,
            lambda endpoint: source_address(endpoint, bound),
            via=way.via,
            route=way.reason,
            wish=wish,
        )
        watched = self._watched(observer)
        found = driver.run(work if watched is ignore else with_fetch_events(watched, work))
        if observer is not ignore:
            observer(PlanMade(found.plan))
        if self._probe_time is None or found.plan.route.failure is not None:
            return found
        return replace(found, probes=self._probe_all(found, way, self._probe_time, observer, question))

    def _watched(self, observer: Observer) -> Observer:
        """The observer, combined with the notices about long waits, if any."""
        return observer if self._notices is None else combine(observer, self._notices.observer())

    def _probe_all(
        self,
        found: Explanation,
        way: Backend,
        longest: float,
        observer: Observer,
        question: RecipientQuestion | None,
    ) -> dict[Endpoint, Probe]:
        """Probe all candidates, in parallel so that none delays the others; one after the other if observed."""
        settings = replace(way.settings, timeouts=within(way.settings.timeouts, longest))

        def probe(candidate: Candidate) -> Probe:
            recorder = ProbeRecorder(time.monotonic)
            watched = self._watched(combine(recorder, observer))
            work = probe_candidate(found.plan, candidate, settings, recorder, watched, question)
            return way.driver(watched).run(work)

        candidates = found.plan.route.candidates
        at_a_time = PROBES_AT_A_TIME if observer is ignore else 1
        with ThreadPoolExecutor(min(at_a_time, len(candidates))) as pool:
            try:
                results = list(pool.map(probe, candidates))
            except BaseException:  # interrupted: the pool waits for its threads, so end their waits
                self._ways.stop.request()
                raise
        return {one.endpoint: result for one, result in zip(candidates, results, strict=True)}


def _warn(text: str) -> None:
    sys.stderr.write(f"zsmtp explain: {text}\n")


async def _addresses(name: str) -> tuple[str, ...]:
    """The addresses of a name that this machine is to connect from."""
    found: list[str] = []
    for kind in (RecordType.A, RecordType.AAAA):
        answer = await Query(name, kind)
        found += [record for record in answer.records if isinstance(record, str)]
    return tuple(found)
