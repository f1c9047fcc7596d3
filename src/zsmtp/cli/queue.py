"""``zsmtp queue``: shows the queue, explains its state, and carries out operators' changes.

Each verb is a coroutine that takes open queues (``queueshards``) and its options; ``queuereading`` has the verbs that
only read, ``queuechanging`` those that make changes. All verbs share one filter language (``queuefilter``) and
``--json``.
:func:`execute` runs a verb on open queues, :func:`run` on those of ``--queue`` or ``--config``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.queuefilter import add_options, lasting, numbers_of
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import look_of
from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.escape import escape
from zsmtp.queue.filter import FIELDS_OF_ENDS
from zsmtp.queue.ids import MAX_SHARD
from zsmtp.queue.location import DEFAULT, VARIABLE, locate, usual_location
from zsmtp.queue.operators import GROUPS
from zsmtp.text.look import Look

if TYPE_CHECKING:
    from zsmtp.cli.queueshards import Shard, Shards
    from zsmtp.client.config import Config
    from zsmtp.queue.config import QueueConfig
    from zsmtp.queue.store import QueueStore
    from zsmtp.server.serviceconfig import ServiceConfig

_EPILOG = """\
exit status: 0; 1 nothing matches, check has findings, or something was not moved; 64 wrong usage,
65 the file is not a queue, 66 or 77 it cannot be read, 69 some of several queues did not answer, 75 the queue cannot be
read or written now, 78 --queue names none. zsmtp-queue(1) describes everything."""


class VerbContext(NamedTuple):
    """The arguments of a verb."""

    shards: Shards
    """The queues to work on."""
    options: argparse.Namespace
    clock: Callable[[], float]
    """Seconds since 1970."""
    look: Look
    """The format of standard output."""
    config: QueueConfig | None = None
    """The configuration of the queue; None if unknown."""
    delivery: Config | None = None
    """The configuration of its deliveries; None if unknown."""
    service: ServiceConfig | None = None
    """The configuration of the service that delivers it; None if unknown."""

    @property
    def store(self) -> QueueStore:
        """The store, for a verb on one queue."""
        return self.shards.only.store

    def at(self, shard: Shard) -> VerbContext:
        """The same context for one of the queues."""
        from zsmtp.cli.queueshards import Shards  # imported only to run a verb

        return self._replace(shards=Shards.single(shard))

    @property
    def json(self) -> bool:
        """Whether JSON is requested."""
        return bool(self.options.json)

    def write(self, text: str) -> None:
        """Write one or more lines."""
        sys.stdout.write(f"{text}\n")

    def write_document(self, facts: Mapping[str, object]) -> None:
        """Write a JSON document, with the names of queues that did not answer, if there are several."""
        from zsmtp.cli import queuejson

        lost = [{"queue": name, "problem": problem} for name, problem in self.shards.lost.items()]
        more: dict[str, object] = {"unanswered": lost} if self.shards.several else {}
        sys.stdout.write(queuejson.json_document(self.options.verb, {**facts, **more}))

    def note(self, text: str) -> None:
        """Write a line for people to standard error."""
        note(self.options, text)


def note(options: argparse.Namespace, text: str) -> None:
    """Write a line for people to standard error."""
    sys.stderr.write(f"zsmtp queue {options.verb}: {escape(text)}\n")


VerbFunction = Callable[[VerbContext], Awaitable[int]]


class QueueVerb(NamedTuple):
    """A verb: its description in one line, its module and function, and its own options."""

    summary: str
    module: str
    function: str
    add: Callable[[Parser], None]
    several: bool = True
    """Whether it accepts several queues."""


def _limited(number: int | None) -> Callable[[Parser], None]:
    def add(parser: Parser) -> None:
        add_options(parser)
        _limit(parser, number)

    return add


def _limit(parser: Parser, number: int | None) -> None:
    default = "all" if number is None else str(number)
    parser.add_argument("--limit", type=_count, default=number, help=f"show at most this many (default: {default})")


def _counts(parser: Parser) -> None:
    add_options(parser)
    _limit(parser, 20)
    parser.add_argument("--by", choices=(*GROUPS[1:], BY_SHARD), default="", help="count by this, the largest first")


def _shapes(parser: Parser) -> None:
    add_options(parser)
    _limit(parser, 20)


def _ends(parser: Parser) -> None:
    add_options(parser, FIELDS_OF_ENDS)
    _limit(parser, 50)


def _changes(parser: Parser) -> None:
    add_options(parser)
    parser.add_argument("--all", action="store_true", help="all recipients: without it a filter is needed")
    parser.add_argument("--dry-run", action="store_true", help="show the number of recipients; change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--because", metavar="TEXT", default="", help="the reason; it is recorded with the operator")


def _ruling(parser: Parser) -> None:
    _changes(parser)
    parser.add_argument("--standing", action="store_true", help="also for later recipients: add a rule")
    _lasting(parser)


def _lasting(parser: Parser) -> None:
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--for", metavar="DURATION", dest="lasting", type=lasting, help="end it after this time: 2h")
    end.add_argument("--until", metavar="TIME", help="end it then: 14:30, 2026-11-30, '2026-11-30 08:00', +2h")


def _suspends(parser: Parser) -> None:
    _changes(parser)
    _lasting(parser)


def _resumes(parser: Parser) -> None:
    _changes(parser)
    parser.add_argument("--number", type=_count, metavar="RULE", help="the suspension that is this rule")


def _fails(parser: Parser) -> None:
    _ruling(parser)
    parser.add_argument("--text", default="", help="the text for the sender in the notice")


def _moves(parser: Parser) -> None:
    parser.add_argument("key", metavar="KEY", help="a domain, or relay:NAME")
    _ruling(parser)


def _leaves(parser: Parser) -> None:
    parser.add_argument(
        "target", metavar="URL", help="the queue it goes to: a SQLite file, or postgresql://host/database"
    )
    parser.add_argument("--rules", action="store_true", help="also add the standing rules that the target lacks")
    _changes(parser)


def _schedules(parser: Parser) -> None:
    parser.add_argument("at", metavar="TIME", help="14:30, 2026-11-30, '2026-11-30 08:00', +2h")
    _changes(parser)


def _ranks(parser: Parser) -> None:
    parser.add_argument("rank", metavar="PRIORITY", type=_priority, help="-9 (last) to 9 (first)")
    _changes(parser)


def _rules(parser: Parser) -> None:
    parser.add_argument("--delete", type=_count, metavar="RULE", help="delete this rule, and release what it holds")
    parser.add_argument("--dry-run", action="store_true", help="with --delete: show the rule, and keep it")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--because", metavar="TEXT", default="", help="the reason; it is recorded with the operator")


def _watches(parser: Parser) -> None:
    parser.add_argument(
        "--interval", type=lasting, default=2.0, metavar="DURATION", help="time between two updates (2s)"
    )
    _limit(parser, 15)


def _nothing(parser: Parser) -> None:
    del parser


def _body(parser: Parser) -> None:
    parser.add_argument("message", metavar="ID", help="the message")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:10]) > 0 and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"not a number from 1 to 999999999: {escape(text[:80])}")
    return int(text)


def _priority(text: str) -> int:
    if not (text.removeprefix("-").isdecimal() and text.isascii() and len(text) <= 2 and -9 <= int(text) <= 9):
        raise argparse.ArgumentTypeError(f"not a priority from -9 to 9: {escape(text[:80])}")
    return int(text)


def _drains(parser: Parser) -> None:
    parser.add_argument("node", metavar="NODE", help="its name, as nodes lists it")


def _suppresses(parser: Parser) -> None:
    parser.add_argument("action", choices=("list", "add", "remove", "import"), help="the operation on the list")
    parser.add_argument("given", metavar="ADDRESS", nargs="*", help="addresses; with import, files (-: standard input)")
    parser.add_argument("--tenant", help="of this tenant (list: of all, otherwise the one without a name)")
    parser.add_argument("--because", metavar="TEXT", default="", help="the reason; it is stored with each address")
    _lasting(parser)


def _migrates(parser: Parser) -> None:
    parser.add_argument("--shard", type=_shard, metavar="NUMBER", help="the shard of a new queue, 0 to 1023 (0)")
    parser.add_argument("--bodies", metavar="DIR", help="the folder of large bodies, under this path on all machines")
    parser.add_argument(
        "--bodies-above",
        type=_octets,
        metavar="SIZE",
        help="octets of a body that stay in the database, the rest goes to the folder: 1M or more (4M); none: all",
    )


def _octets(text: str) -> int:
    """A size in octets, 0 for ``none``; K, M and G are powers of 1024."""
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    if text == "none":
        return 0
    if unit not in _UNITS or not (number.isascii() and number.isdecimal() and len(number) <= 15 and int(number)):
        raise argparse.ArgumentTypeError(f"neither a size (4194304, 4M) nor none: {escape(text[:80])}")
    return int(number) * _UNITS[unit]


def _shard(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and int(text) <= MAX_SHARD):
        raise argparse.ArgumentTypeError(f"not a shard from 0 to {MAX_SHARD}: {escape(text[:80])}")
    return int(text)


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
BY_SHARD = "shard"
"""The group of ``count`` beside those of a store: queues."""
_READING, _CHANGING = "zsmtp.cli.queuereading", "zsmtp.cli.queuechanging"
_MOVING = "zsmtp.cli.queuemove"
_FLEET, _IMPORTING, _SUPPRESS = "zsmtp.cli.queuefleet", "zsmtp.cli.queueimport", "zsmtp.cli.queuesuppress"
_IMPORT, _MIGRATE = "import", "migrate"
_ONE_QUEUE = "name it with --queue URL"
ANYWHERE = ("--queue", "--config")
"""Options of every verb that are also allowed before the verb."""

VERBS: dict[str, QueueVerb] = {
    "why": QueueVerb("explain why recipients are still queued", _READING, "why", _limited(10)),
    "list": QueueVerb("list recipients", _READING, "list_recipients", _limited(None)),
    "count": QueueVerb("count recipients", _READING, "count", _counts),
    "shape": QueueVerb("show sites by the age of their mail", _READING, "shape", _shapes),
    "show": QueueVerb("show messages with their recipients", _READING, "show", _limited(10)),
    "ends": QueueVerb("list ended recipients", _READING, "list_ends", _ends),
    "attempts": QueueVerb("show the history of messages", _READING, "attempts", _limited(10)),
    "body": QueueVerb("write the content of a message to standard output", _READING, "body", _body),
    "top": QueueVerb("watch the queue", _READING, "top", _watches),
    "check": QueueVerb("look for inconsistencies in a queue", _READING, "check", _nothing),
    "now": QueueVerb("have recipients tried now", _CHANGING, "now", _changes),
    "at": QueueVerb("have recipients tried at a time", _CHANGING, "at", _schedules),
    "priority": QueueVerb("give recipients another priority", _CHANGING, "priority", _ranks),
    "hold": QueueVerb("hold recipients until they are released", _CHANGING, "hold", _ruling),
    "release": QueueVerb("release recipients that are held", _CHANGING, "release", _changes),
    "suspend": QueueVerb("deliver no mail that matches, also later mail", _CHANGING, "suspend", _suspends),
    "resume": QueueVerb("end suspensions", _CHANGING, "resume", _resumes),
    "reroute": QueueVerb("send recipients elsewhere", _CHANGING, "reroute", _moves),
    "fail": QueueVerb("give recipients up and notify their senders", _CHANGING, "fail", _fails),
    "drop": QueueVerb("remove recipients without a notice", _CHANGING, "drop", _ruling),
    "move": QueueVerb("move mail to another queue", _MOVING, "move", _leaves, several=False),
    "rules": QueueVerb("list the standing rules, or delete one", _CHANGING, "rules", _rules),
    "suppress": QueueVerb("list, add or remove suppressed addresses", _SUPPRESS, "run", _suppresses),
    "nodes": QueueVerb("list the processes that deliver", _FLEET, "nodes", _nothing),
    "drain": QueueVerb("ask a process that delivers to leave", _FLEET, "drain", _drains),
    _MIGRATE: QueueVerb("make the tables of a queue in a database", _FLEET, "migrate", _migrates),
}
"""The verbs: first those that only read. ``import`` is a command of its own (``queueimport``)."""


def verb_parser(name: str) -> Parser:
    """The command line of a verb."""
    verb = VERBS[name]
    parser = command_parser(f"queue {name}", f"{verb.summary[0].upper()}{verb.summary[1:]}.", epilog=_EPILOG)
    where = f"a SQLite file, or postgresql://host/database; default: ${VARIABLE}, else {DEFAULT}"
    again = "; may be given again: all of them are asked" if verb.several else ""
    parser.add_argument("--queue", metavar="URL", action="append", default=[], help=where + again)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration of zsmtp serve: it names the queue, or all shards, and the retry schedule",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    verb.add(parser)
    parser.set_defaults(verb=name)
    return parser


def subcommand_parsers() -> dict[str, Parser]:
    """The command line of each verb."""
    importing: Parser = import_module(_IMPORTING).make_parser()
    return {**{name: verb_parser(name) for name in VERBS}, _IMPORT: importing}


def run(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    arguments = _verb_first(arguments)
    if arguments[:1] == [_IMPORT]:
        status: int = import_module(_IMPORTING).run(arguments[1:])
        return status
    if not arguments or arguments[0] not in VERBS:
        _parse(arguments)
        return Exit.OK
    options = verb_parser(arguments[0]).parse_intermixed_args(arguments[1:])
    return asyncio.run(_run(options))


def _verb_first(arguments: list[str]) -> list[str]:
    """Move ``--queue URL`` and ``--config FILE`` before the verb to the options after it."""
    count = 0
    while arguments[count : count + 1] and (option := arguments[count].partition("=")) and option[0] in ANYWHERE:
        count += 1 if option[1] else 2
    if not count or len(arguments) <= count:
        return arguments
    return [arguments[count], *arguments[:count], *arguments[count + 1 :]]


def _parse(arguments: Sequence[str]) -> None:
    """Handle ``--help`` and unknown verbs: exits."""
    parser = Parser(
        prog="zsmtp queue",
        description="Show what is in the queue and why, and change it.",
        epilog=f"zsmtp queue VERB --help shows its options. {_EPILOG}",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(title="verbs", dest="VERB", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.summary, add_help=False)
    verbs.add_parser(_IMPORT, help="queue messages from files of other programs", add_help=False)
    parser.parse_args(arguments)


async def _run(options: argparse.Namespace) -> int:
    from zsmtp.cli.queueshards import open_shards

    service: ServiceConfig | None = None
    if options.config is not None:
        from zsmtp.server.serviceconfig import read_service  # imported only if used

        with reading(options.config):
            service = read_service(options.config, usual=os.environ.get(VARIABLE, ""))
        options.queue = options.queue or list(service.shards or (service.path,))
    if len(options.queue) > 1 and not VERBS[options.verb].several:
        raise CommandFailed(Exit.USAGE, f"{options.verb} is about one queue; {_ONE_QUEUE}")
    with _failures():
        if options.verb == _MIGRATE:  # runs before there is a queue to open
            places = [locate(url) for url in options.queue] or [usual_location()]
            status: int = await import_module(_FLEET).migrate(places, options)
            return status
        numbers = numbers_of(options)
        async with open_shards(options.queue, numbers, lambda text: note(options, text)) as shards:
            if service is None:
                return await execute(shards, options, time.time)
            return await execute(shards, options, time.time, service.queue, service.delivery, service)


async def execute(
    shards: Shards,
    options: argparse.Namespace,
    clock: Callable[[], float],
    config: QueueConfig | None = None,
    delivery: Config | None = None,
    service: ServiceConfig | None = None,
) -> int:
    """Run a verb on open queues; return the exit status. Raises CommandFailed if it cannot be done.

    ``config`` is the configuration of the queue, ``delivery`` that of its deliveries, ``service`` that of the process
    that delivers it; None if unknown.
    """
    verb = VERBS[options.verb]
    function: VerbFunction = getattr(import_module(verb.module), verb.function)
    with _failures():
        look = look_of(sys.stdout, options.color)
        status = await function(VerbContext(shards, options, clock, look, config, delivery, service))
    return Exit.UNAVAILABLE if shards.lost else status


@contextmanager
def _failures() -> Iterator[None]:
    """Turn the errors of a queue into CommandFailed."""
    try:
        yield
    except QueueUnavailable as error:
        raise CommandFailed(Exit.TEMPORARY, escape(str(error))) from error
    except QueueError as error:
        raise CommandFailed(Exit.USAGE, escape(str(error))) from error
