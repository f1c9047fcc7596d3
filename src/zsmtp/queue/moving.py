"""Moves mail from one queue to another while both are used: :class:`Mover` takes the steps of ``zsmtp.queue.moves``.

It may die at any time, and several may run between the same queues: the next one continues with the recipients that are
set apart. Recipients that a node of the source has in hand stay; a later run moves those that are still queued then::

    mover = Mover(source, target, "/var/lib/zsmtp/queue.db", "postgresql://db/mail", by="ann")
    async for moved in mover.finish(): ...        # what an earlier run left
    async for moved in mover.move(Filter()): ...  # everything

If only some recipients of a message move, the others stay in the source. The content is copied once for all that move
together. History stays in the source. Rules are added to the target on request (:meth:`Mover.missing_rules`,
:meth:`Mover.add_rule`); recipients held by a rule are held by the same rule of the target, or else by command.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from zsmtp.errors import QueueError, QueueFull, QueueUnavailable
from zsmtp.queue.filter import Field, Filter, Operator, Term
from zsmtp.queue.ids import to_text
from zsmtp.queue.limits import BY_COMMAND, PART_OCTETS, PART_RECIPIENTS
from zsmtp.queue.moves import (
    MOVED_FROM,
    ApartRecipient,
    Departure,
    Elsewhere,
    Move,
    Provenance,
    Standing,
    TakenIn,
)
from zsmtp.queue.operators import Change, Rule
from zsmtp.queue.states import QueuedMessage
from zsmtp.queue.store import NewMessage, NewRecipient, QueueStore
from zsmtp.queue.uploading import upload_blocks

PAGE = 500  # recipients read at a time
BATCH = 100  # messages submitted at a time
BATCH_OCTETS = 4 << 20


class MovingGroup(NamedTuple):
    """The recipients of a message that are set apart in one move, in order."""

    move: int
    message: QueuedMessage
    recipients: list[ApartRecipient]


class Mover:
    """Moves mail from a source to a target; ``names`` are their names for display. ``by`` is the operator.

    Raises QueueError if both are the same queue.
    """

    def __init__(self, source: QueueStore, target: QueueStore, source_name: str, target_name: str, *, by: str) -> None:
        if source.uid == target.uid:
            raise QueueError(f"{source_name} and {target_name} are the same queue")
        self._source = source
        self._target = target
        self._source_name = source_name
        self._to = Elsewhere(target.uid, target_name)
        self._by = by
        self._rules: dict[int, int] = {}  # numbers of rules in the source, and in the target
        self.problems: dict[str, str] = {}
        """Messages that could not be moved, and why; they stay set apart."""

    async def missing_rules(self) -> list[Rule]:
        """The standing rules of the source that the target lacks, oldest first."""
        there = {_same(rule) for rule in await self._target.rules()}
        return [rule for rule in await self._source.rules() if _same(rule) not in there]

    async def add_rule(self, rule: Rule) -> Rule:
        """Add a rule of the source to the target; returns the rule there.

        A second mover may add the same rule at the same time: the older of the two stays.
        """
        added = await self._target.add_rule(rule)
        first = next((one for one in await self._target.rules() if _same(one) == _same(added)), added)  # the oldest
        if first.number < added.number:
            await self._target.delete_rule(added.number)
            return first
        return added

    async def _match_rules(self) -> None:
        """Find the rules of the source that the target has."""
        there: dict[tuple[object, ...], int] = {}
        for rule in await self._target.rules():
            there.setdefault(_same(rule), rule.number)  # a second mover may be about to delete a later one
        known = [rule for rule in await self._source.rules() if _same(rule) in there]
        self._rules = {rule.number: there[_same(rule)] for rule in known}

    async def finish(self) -> AsyncIterator[int]:
        """Move the recipients that earlier runs set apart for this target; yields the number of each piece."""
        for move in await self._source.moves():
            if move.to.uid == self._to.uid:
                async for moved in self._carry(move, None):
                    yield moved
        left = [note for note in await self._target.taken_in(self._source.uid) if not await self._is_apart(note)]
        if left:
            await self._target.departed(self._source.uid, left)

    async def _is_apart(self, note: TakenIn) -> bool:
        """Whether one of the recipients of a note has no end in the source yet."""
        first = (note.message, note.numbers[0] - 1)
        found = await self._source.apart(note.move, message=note.message, after=first, limit=1)
        return bool(found) and found[0].recipient.number <= note.numbers[-1]

    async def move(self, wanted: Filter) -> AsyncIterator[int]:
        """Move the matching recipients, in pieces; yields the number of each piece.

        Raises QueueUnavailable if one of the stores is, QueueFull if the target accepts no more. :meth:`finish` moves
        the recipients that are set apart by then.
        """
        move = await self._source.begin_move(self._to, by=self._by)
        async for number in self._source.change(wanted, Change(move=move.number)):
            if number:
                async for moved in self._carry(move, wanted):
                    yield moved

    async def _carry(self, move: Move, wanted: Filter | None) -> AsyncIterator[int]:
        """Move all recipients that are set apart in a move, with the other matching recipients of their messages."""
        await self._match_rules()
        after = (0, -1)
        while page := await self._source.apart(move.number, after=after, limit=PAGE):
            groups: list[MovingGroup] = []
            for one in page:
                if not groups or groups[-1].message.id != one.message.id:
                    groups.append(MovingGroup(move.number, one.message, []))
                groups[-1].recipients.append(one)
            last = groups[-1].message.id
            for place, group in enumerate(groups):
                if len(group.recipients) < group.message.recipients:
                    groups[place] = await self._whole(group, wanted)
            for batch in _batches(groups):
                yield await self._take_over(batch)
            after = (last + 1, -1)

    async def _whole(self, group: MovingGroup, wanted: Filter | None) -> MovingGroup:
        """A group with all moving recipients of its message, so that its content is copied once."""
        message = group.message.id
        if wanted is not None:
            only = Term(Field.ID, Operator.EQUAL, (to_text(message, self._source.shard),))
            async for _ in self._source.change(Filter((*wanted.terms, only)), Change(move=group.move)):
                pass
        found: list[ApartRecipient] = []
        after = (message, -1)
        while page := await self._source.apart(group.move, message=message, after=after, limit=PAGE):
            found += page
            after = (message, page[-1].recipient.number)
        return group._replace(recipients=found or group.recipients)

    # ------------------------------------------------------------------ steps

    async def _take_over(self, groups: Sequence[MovingGroup]) -> int:
        """Submit messages to the target, and end them in the source; returns how many recipients were ended."""
        notes = await self._notes(groups)
        missing = [left for group in groups if (left := _without(group, notes)).recipients]
        if missing:
            await self._take_in_all(missing)
            notes = await self._notes(groups)
        places = {(note.move, note.message, number): note for note in notes for number in note.numbers}
        departures = [
            Departure(group.move, group.message.id, one.recipient.number, self._words(note))
            for group in groups
            for one in group.recipients
            if (note := places.get((group.move, group.message.id, one.recipient.number))) is not None
        ]
        done = await self._source.depart(departures, by=self._by)
        await self._target.departed(self._source.uid, notes)
        return done

    async def _notes(self, groups: Sequence[MovingGroup]) -> list[TakenIn]:
        """The notes of the target on these messages and moves."""
        known = {(group.move, group.message.id) for group in groups}
        found = await self._target.taken_in(self._source.uid, [group.message.id for group in groups])
        return [note for note in found if (note.move, note.message) in known]

    def _words(self, note: TakenIn) -> str:
        """The place of a message as text."""
        return f"to {to_text(note.here, self._target.shard)} in {self._to.name}"

    async def _take_in_all(self, groups: Sequence[MovingGroup]) -> None:
        """Submit to the target the messages that it lacks; those that it cannot store stay apart and are logged."""
        try:
            await self._take_in(groups)
        except (QueueUnavailable, QueueFull):
            raise
        except QueueError:
            for group in groups:  # another process may have moved one, or one cannot be read
                await self._take_in_one(group)

    async def _take_in_one(self, group: MovingGroup) -> None:
        try:
            left = _without(group, await self._notes([group]))
            if left.recipients:
                await self._take_in([left])
        except (QueueUnavailable, QueueFull):
            raise
        except QueueError as error:
            if _without(group, await self._notes([group])).recipients:
                self.problems[to_text(group.message.id, self._source.shard)] = str(error)

    async def _take_in(self, groups: Sequence[MovingGroup]) -> None:
        """Submit messages to the target: a large one by itself, others together."""
        if len(groups) == 1 and _is_large(groups[0]):
            (group,) = groups
            content = self._source.content(group.message.id, group.message.size)
            await upload_blocks(self._target, self._new(group, b""), content)
            return
        messages = []
        for group in groups:
            content = self._source.content(group.message.id, group.message.size)
            messages.append(self._new(group, b"".join([chunk async for chunk in content])))
        await self._target.submit(messages)

    def _new(self, group: MovingGroup, content: bytes) -> NewMessage:
        message, first = group.message, group.recipients[0]
        origin = f"{to_text(message.id, self._source.shard)} in {self._source_name}"
        key, digest = first.key or ("", b"")
        return NewMessage(
            sender=message.sender,
            recipients=[self._standing(one) for one in group.recipients],
            content=content,
            tenant=message.tenant,
            priority=message.priority,
            due=first.recipient.due,
            expires=first.recipient.expires,
            ret=message.ret,
            envid=message.envid,
            name=message.name,
            origin=message.origin,
            options={**(message.options or {}), MOVED_FROM: origin},
            moved=Provenance(
                queue=self._source.uid,
                move=group.move,
                message=message.id,
                numbers=tuple(one.recipient.number for one in group.recipients),
                submitted=message.submitted,
                idempotency_key=key,
                digest=digest,
            ),
        )

    def _standing(self, one: ApartRecipient) -> NewRecipient:
        recipient, hold = one.recipient, one.recipient.hold
        return NewRecipient(
            address=recipient.address,
            key=recipient.key,
            notify=recipient.notify,
            orcpt=recipient.orcpt,
            hold=self._rules.get(hold, BY_COMMAND) if 0 < hold < BY_COMMAND else hold,
            standing=Standing.of(recipient),
        )


def _same(rule: Rule) -> tuple[object, ...]:
    """The values by which two rules are equal."""
    return rule.action, rule.filter, rule.argument, rule.until


def _without(group: MovingGroup, notes: Sequence[TakenIn]) -> MovingGroup:
    """A group without those that the target has."""
    of = group.move, group.message.id
    there = {number for note in notes if (note.move, note.message) == of for number in note.numbers}
    return group._replace(recipients=[one for one in group.recipients if one.recipient.number not in there])


def _is_large(group: MovingGroup) -> bool:
    return group.message.size > PART_OCTETS or len(group.recipients) > PART_RECIPIENTS


def _batches(groups: Sequence[MovingGroup]) -> list[list[MovingGroup]]:
    """The groups of each submission: large ones alone, others together."""
    batches: list[list[MovingGroup]] = []
    octets = 0
    for group in groups:
        large = _is_large(group)
        full = not batches or len(batches[-1]) >= BATCH or octets + group.message.size > BATCH_OCTETS
        if large or full:
            batches.append([])
            octets = 0
        batches[-1].append(group)
        octets = BATCH_OCTETS + 1 if large else octets + group.message.size
    return batches
