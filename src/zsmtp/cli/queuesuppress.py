"""The verb ``zsmtp queue suppress``: the list of suppressed addresses.

``list`` shows it, ``add`` and ``remove`` take addresses, ``import`` takes files of them. A line of such a file is an
address, optionally followed by a comma or a tab and the reason, or a line from ``list --json``; empty lines and those
that begin with ``#`` are skipped. Any other line is reported and skipped: the valid ones count.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO

from zsmtp.cli import queuejson, queuetext
from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.queue import VerbContext
from zsmtp.cli.queuechanging import log_change, operator_name, reason_given, time_given
from zsmtp.cli.sysexits import Exit
from zsmtp.client.addresslist import read_address
from zsmtp.errors import QueueError, SubmissionError
from zsmtp.escape import escape
from zsmtp.queue.intake import kept_suppression
from zsmtp.queue.suppression import PIECE, Suppression

_MAX_LINE = 8192  # characters of a line
_NAMED = 20  # lines that are reported one by one


async def run(context: VerbContext) -> int:
    """Carry out ``list``, ``add``, ``remove`` or ``import``."""
    options = context.options
    adding = options.action in ("add", "import")
    if not adding and (options.because or options.lasting is not None or options.until is not None):
        raise CommandFailed(Exit.USAGE, f"{options.action}: --because, --for and --until are for add and import")
    if options.action == "list":
        return await _list(context)
    if not options.given:
        wanted = "which file? - is standard input" if options.action == "import" else "which address?"
        raise CommandFailed(Exit.USAGE, f"{options.action}: {wanted}")
    if options.action == "import":
        return await _import(context)
    addresses = [_address(text) for text in options.given]
    if options.action == "remove":
        return await _remove(context, addresses)
    new = await _add(context, [_suppression(context, address, reason_given(context)) for address in addresses])
    _report(context, len(addresses), new)
    return Exit.OK


async def _add(context: VerbContext, some: list[Suppression]) -> int:
    """Add to the list of each queue; return the largest number that was new to one of them."""
    added = await context.shards.each(lambda shard: shard.store.suppress(some))
    return max((new for _, new in added), default=0)


async def _list(context: VerbContext) -> int:
    addresses = [_address(text) for text in context.options.given]
    headed, tenant = False, context.options.tenant
    last: tuple[str, bytes] | None = None
    async for _, one in context.shards.merged(lambda store: store.suppressions(tenant, addresses), _place_of):
        if _place_of(one) == last:  # on the lists of several queues
            continue
        last = _place_of(one)
        if context.json:
            sys.stdout.write(queuejson.json_line(queuejson.suppression_document(one)))
        else:
            if not headed:
                context.write(queuetext.suppressions_heading(context.look))
            context.write(queuetext.suppression_line(one, context.clock(), context.look))
        headed = True
    if addresses and not headed:
        context.note("no address of these is suppressed")
        return Exit.NEGATIVE
    return Exit.OK


def _place_of(one: Suppression) -> tuple[str, bytes]:
    return one.tenant, one.address


async def _remove(context: VerbContext, addresses: list[bytes]) -> int:
    tenant = context.options.tenant or ""
    answers = await context.shards.each(lambda shard: shard.store.unsuppress(tenant, addresses))
    removed = max((number for _, number in answers), default=0)
    if removed:
        log_change(context, f"{_addresses(removed)} of tenant {tenant!r} no longer suppressed")
    if context.json:
        context.write_document({"tenant": tenant, "removed": removed})
    elif removed:
        context.write(f"{_addresses(removed)} no longer suppressed")
    else:
        context.note("no address of these is suppressed")
    return Exit.OK if removed else Exit.NEGATIVE


async def _import(context: VerbContext) -> int:
    number, new, bad = 0, 0, 0
    piece: list[Suppression] = []
    for where, one in _read(context, context.options.given):
        if isinstance(one, str):
            bad += 1
            if bad <= _NAMED:
                context.note(f"{where}: {one}")
            continue
        piece.append(one)
        number += 1
        if len(piece) == PIECE:
            new += await _add(context, piece)
            piece = []
    new += await _add(context, piece)
    if bad > _NAMED:
        context.note(f"{bad - _NAMED} more lines are no addresses")
    _report(context, number, new, bad)
    return Exit.DATA if bad else Exit.OK


def _report(context: VerbContext, number: int, new: int, bad: int = 0) -> None:
    if number:
        log_change(context, f"{_addresses(number)} of tenant {context.options.tenant or ''!r} suppressed")
    if context.json:
        facts = {"tenant": context.options.tenant or "", "suppressed": number, "new": new, "not_read": bad}
        context.write_document(facts)
    else:
        known = f", {number - new} of them already" if new < number else ""
        context.write(f"{_addresses(number)} suppressed{known}")


def _addresses(number: int) -> str:
    return f"{number:,} address{'' if number == 1 else 'es'}"


def _address(text: str) -> bytes:
    try:
        return read_address(text, "address")
    except SubmissionError as error:
        raise CommandFailed(Exit.USAGE, escape(str(error))) from error


def _suppression(context: VerbContext, address: bytes, reason: str) -> Suppression:
    options, now = context.options, context.clock()
    until = None
    if options.lasting is not None:
        until = now + options.lasting
    elif options.until is not None:
        until = time_given(context, options.until)
    return Suppression(
        tenant=options.tenant or "",
        address=address,
        reason=reason,
        source=operator_name(),
        at=now,
        until=until,
    )


# ----------------------------------------------------------------------- files


def _read(context: VerbContext, paths: list[str]) -> Iterator[tuple[str, Suppression | str]]:
    """Each line of the files with its suppression, or its fault."""
    usual = reason_given(context)
    for path in paths:
        with ExitStack() as stack:
            file: IO[str] = sys.stdin
            if path != "-":
                with reading(path):
                    file = stack.enter_context(open(path, encoding="utf-8", errors="surrogateescape"))
            for number, line in enumerate(_lines(file, path), 1):
                found = _of_line(line, lambda address, why: _suppression(context, address, why or usual))
                if found is not None:
                    yield f"{path}, line {number}", found


def _lines(file: IO[str], path: str) -> Iterator[str]:
    with reading(path):
        while line := file.readline(_MAX_LINE):
            rest = line
            while rest and not rest.endswith("\n"):  # a line that is too long is invalid, and its rest is no line
                rest = file.readline(_MAX_LINE)
            yield line


def _of_line(line: str, make: Callable[[bytes, str], Suppression]) -> Suppression | str | None:
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    try:
        if text.startswith("{"):
            return kept_suppression(_of_document(text))
        address, _, reason = text.replace("\t", ",", 1).partition(",")
        return kept_suppression(make(read_address(address.strip(), "address"), reason.strip()))
    except (SubmissionError, QueueError, ValueError) as error:
        return str(error)


def _of_document(text: str) -> Suppression:
    """A suppression from a line of ``list --json``; raises ValueError, SubmissionError."""
    found = json.loads(text)
    words = {name: found.get(name, "") for name in ("tenant", "reason", "source")}
    at, until = found.get("at"), found.get("until")
    if not all(isinstance(word, str) for word in (*words.values(), found.get("address"))):
        raise ValueError("address, tenant, reason and source are texts")
    if isinstance(at, bool) or not isinstance(at, int | float) or not isinstance(until, int | float | None):
        raise ValueError("at and until are seconds since 1970; until may be null")
    return Suppression(address=read_address(found["address"], "address"), at=float(at), until=until, **words)
