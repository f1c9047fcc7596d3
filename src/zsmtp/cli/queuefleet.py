"""The verbs of ``zsmtp queue`` about the processes that deliver, and about the tables of a queue in a database:
``nodes drain migrate``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import NamedTuple

from zsmtp.cli import queuejson, queuetext
from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.queue import VerbContext
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.escape import escape
from zsmtp.queue.location import Location
from zsmtp.queue.stores import check_library


async def nodes(context: VerbContext) -> int:
    """``nodes``: list the processes that deliver, or did so shortly before."""
    answers = await context.shards.each(lambda shard: shard.store.nodes())
    found = [(shard, node) for shard, some in answers for node in some]
    several = context.shards.several
    if context.json:
        context.write_document({"nodes": [queuejson.node_document(node, shard.number) for shard, node in found]})
    elif found:
        context.write(queuetext.nodes_heading(context.look, shards=several))
        for shard, node in found:
            number = shard.number if several else None
            context.write(queuetext.nodes_line(node, context.clock(), context.look, shard=number))
    else:
        context.note("no process delivers this queue, and none did recently")
    return Exit.OK if found else Exit.NEGATIVE


async def drain(context: VerbContext) -> int:
    """``drain``: ask a node to stop delivering and leave."""
    name = context.options.node
    number = sum(asked for _, asked in await context.shards.each(lambda shard: shard.store.drain(name)))
    if not number:
        raise CommandFailed(
            Exit.UNAVAILABLE if context.shards.lost else Exit.NEGATIVE,
            f"no node that delivers is called {escape(name)}; zsmtp queue nodes lists them",
        )
    if context.json:
        context.write_document({"node": name, "asked": number})
    else:
        context.write(
            f"{queuetext.plural(number, 'node')} asked to leave: deliveries are completed, then sites given back"
        )
    return Exit.OK


async def migrate(places: Sequence[Location], options: argparse.Namespace) -> int:
    """``migrate``: make the tables of queues in databases, or update them, one queue after the other."""
    if len(places) > 1 and options.shard is not None:
        raise CommandFailed(Exit.USAGE, "--shard is for one queue: each has a number of its own")
    if len(places) > 1 and options.bodies is not None:
        raise CommandFailed(Exit.USAGE, "--bodies is for one queue: each has a folder of its own")
    for where in places:
        await _migrate_one(where, options)
    return Exit.OK


async def _migrate_one(where: Location, options: argparse.Namespace) -> None:
    if not where.url:
        raise CommandFailed(
            Exit.USAGE,
            f"{escape(where.name)}: migrate is for a queue in a database; a file is updated when a program opens it",
        )
    check_library()
    from zsmtp.queue.postgres.bodies import LEAST

    if options.bodies == "":
        raise CommandFailed(Exit.USAGE, "--bodies: no folder; --bodies-above none has new bodies stay in the database")
    if options.bodies_above and options.bodies_above < LEAST:
        raise CommandFailed(Exit.USAGE, f"--bodies-above: {LEAST >> 20}M is the least, or none")
    found = await asyncio.to_thread(_migrate, where.url, options.shard, options.bodies, options.bodies_above)
    if options.json:
        about = {"queue": where.name, "shard": found.shard, "schema": found.schema}
        if found.folder:
            about |= {"bodies": found.folder, "bodies_above": found.above or None}
        sys.stdout.write(queuejson.json_document("migrate", about))
        return
    sys.stdout.write(
        f"{escape(where.name)}: the tables are those that this program uses "
        f"(schema {found.schema}, shard {found.shard})\n"
    )
    if found.folder:
        what = f"what exceeds {found.above} octets of a body goes" if found.above else "no new bodies go"
        sys.stdout.write(f"{escape(where.name)}: {what} to {escape(found.folder)}\n")


class MigratedQueue(NamedTuple):
    """A queue with the tables of this program, its folder of large bodies, "" for none, and the octets in rows."""

    shard: int
    schema: int
    folder: str
    above: int


def _migrate(url: str, shard: int | None, folder: str | None, above: int | None) -> MigratedQueue:
    import psycopg

    from zsmtp.queue.postgres.bodies import configure, setting_of
    from zsmtp.queue.postgres.connect import Database, unavailable
    from zsmtp.queue.postgres.schema import meta_of, migrate

    database = Database.of(url)
    try:
        with database.connect() as connection:
            found = migrate(connection, shard)
            if folder is not None or above is not None:
                configure(connection, path=folder or "", above=above)
            setting = setting_of(connection)
            where = ("", 0) if setting is None else (setting.folder.path, setting.above)
            return MigratedQueue(found, int(meta_of(connection)["schema"]), *where)
    except psycopg.Error as error:
        raise CommandFailed(Exit.TEMPORARY, escape(str(unavailable(database, "making the tables", error)))) from error
    except QueueUnavailable as error:
        raise CommandFailed(Exit.TEMPORARY, escape(str(error))) from error
    except QueueError as error:
        raise CommandFailed(Exit.USAGE, escape(str(error))) from error
