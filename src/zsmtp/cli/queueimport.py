"""``zsmtp queue import``: queues messages from files of other programs.

Each message is queued durably before the next one is read; a message that cannot be queued is reported, and the next
ones are queued. A message that was imported before is not queued again, as long as idempotency keys are kept
(``zsmtp.queue.limits.KEYS_KEPT`` after its last end).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass, field

from zsmtp.cli.arguments import command_parser
from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.importsources import Found, SourceKind, UnusableFile, kind_of, messages
from zsmtp.cli.sysexits import Exit
from zsmtp.client.config import Config
from zsmtp.errors import ContentError, QueueError, QueueFull, QueueUnavailable, SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.plan import Envelope
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.ingest import Ingest, Ingested, QueueSubmission
from zsmtp.queue.location import DEFAULT, VARIABLE, locate, usual_location
from zsmtp.queue.queue import Queue
from zsmtp.queue.submission import digest
from zsmtp.records import replace

_DESCRIPTION = (
    "Queue the messages of a Maildir, a mbox, .eml files, or a spool of Postfix or ZMailer. Nothing of it is changed."
)
_EPILOG = """\
Stop the program that delivers a spool before it is imported, and delete the spool afterwards. Importing twice
queues once. Messages that Postfix has on hold are imported only if their folder is named.
Quotas of tenants do not apply, because the mail was accepted already. Exit status: 0 all messages are queued; 65
some cannot be, which are named; 66 or 77 a path cannot be read; 75 the queue cannot be written now; 78 a bad
configuration."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("queue import", _DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a folder or a file with messages")
    parser.add_argument(
        "--queue",
        metavar="URL",
        help=f"a file, or postgresql://host/database ({VARIABLE}, or {DEFAULT})",
    )
    parser.add_argument(
        "--format", choices=[kind.value for kind in SourceKind], help="the kind of the paths, if it is not clear"
    )
    parser.add_argument("--config", metavar="FILE", help="configuration of the deliverer, TOML: its routes apply")
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", help="the sender of messages without an envelope")
    parser.add_argument("--to", action="append", metavar="ADDRESS", help="a recipient of those; may be given again")
    parser.add_argument("--tenant", default="", metavar="NAME", help="the tenant of the mail")
    parser.add_argument("--dry-run", action="store_true", help="show the messages, and queue nothing")
    parser.add_argument("--json", action="store_true", help="print JSON (zsmtp.queue-import/1)")
    return parser


def run(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    options = make_parser().parse_args(arguments)
    config = Config()
    if options.config is not None:
        with reading(options.config):
            config = Config.from_toml(options.config)
    tally = ImportTally()
    try:
        asyncio.run(_Import(options, config, tally).run())
    except SubmissionError as error:
        raise CommandFailed(Exit.DATA, escape(str(error))) from None
    except (QueueUnavailable, QueueFull) as error:
        _show(options, tally)
        raise CommandFailed(Exit.TEMPORARY, f"{escape(str(error))}; import the rest later") from None
    _show(options, tally)
    return Exit.DATA if tally.problems else Exit.OK


@dataclass(slots=True)
class ImportTally:
    """The counters of an import."""

    imported: int = 0
    recipients: int = 0
    existing: int = 0
    problems: list[UnusableFile] = field(default_factory=list)


class _Import:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, config: Config, tally: ImportTally) -> None:
        self._options = options
        self._config = config
        self._tally = tally
        self._ingest = Ingest(config, QueueConfig())

    async def run(self) -> None:
        if self._options.dry_run:
            await self._import(None)
            return
        where = locate(self._options.queue) if self._options.queue is not None else usual_location()
        async with Queue.open(where.given, config=self._config) as queue:
            await self._import(queue)

    async def _import(self, queue: Queue | None) -> None:
        for path in self._options.paths:
            with reading(path):
                kind = kind_of(path) if self._options.format is None else SourceKind(self._options.format)
                for one in messages(path, kind):
                    if isinstance(one, UnusableFile):
                        self._refuse(one)
                    else:
                        await self._queue(queue, one)

    async def _queue(self, queue: Queue | None, found: Found) -> None:
        try:
            with self._read(found) as one:
                accepted = await queue.accept(one) if queue is not None else None
        except (QueueUnavailable, QueueFull):
            raise
        except (SubmissionError, ContentError, QueueError) as error:
            self._refuse(UnusableFile(found.name, str(error)))
            return
        finally:
            found.close()
        if accepted is not None and accepted.existed:
            self._tally.existing += 1
        else:
            self._tally.imported += 1
            self._tally.recipients += len(one.new.recipients)

    def _read(self, found: Found) -> Ingested:
        options = self._options
        origin = f"import {found.key.partition(' ')[0]}"
        submission = QueueSubmission(
            message=found.file,
            sender=options.sender,
            recipients=options.to,
            tenant=options.tenant,
            idempotency_key=f"import {found.key}",
        )
        if found.envelope is None or found.body is None:
            one = self._ingest.read(submission, origin=origin)
            sender = one.new.sender
        else:
            one = self._ingest.assemble(found.envelope, found.header, found.body, submission=submission, origin=origin)
            sender = found.envelope.sender
        # When a spool is imported again some recipients may have ended: it is still the same message.
        one.new = replace(one.new, digest=digest(Envelope(sender, ()), one.blocks()))
        return one

    def _refuse(self, problem: UnusableFile) -> None:
        self._tally.problems.append(problem)
        if not self._options.json:
            sys.stderr.write(f"zsmtp queue import: {escape(problem.name)}: {escape(problem.text)}\n")


def _show(options: argparse.Namespace, tally: ImportTally) -> None:
    if options.json:
        document = {
            "format": "zsmtp.queue-import/1",
            "dry_run": options.dry_run,
            "imported": tally.imported,
            "recipients": tally.recipients,
            "existing": tally.existing,
            "problems": [{"name": one.name, "problem": one.text} for one in tally.problems],
        }
        json.dump(document, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    verb = "would be imported" if options.dry_run else "imported"
    rest = "".join(
        f", {count} {word}"
        for count, word in ((tally.existing, "already queued"), (len(tally.problems), "not imported"))
        if count
    )
    sys.stdout.write(f"{tally.imported} messages to {tally.recipients} recipients {verb}{rest}\n")
