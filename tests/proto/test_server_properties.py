"""What holds for a server session whatever comes, however it is cut, and whenever it is answered."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.support.servertalk import LMTP, SETTINGS, ServerTalk

from zsmtp.body.dots import stuffed
from zsmtp.proto import command
from zsmtp.proto.capabilities import parse_ehlo
from zsmtp.proto.phase import Phase, ReplyMeaning, Timeouts
from zsmtp.proto.plan import ContentForm, Envelope, EnvelopeRecipient, Flow, Transaction, plan_transaction
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import (
    MailFrom,
    MessageData,
    MessageEnd,
    MessageStart,
    RcptTo,
    ServerEvent,
    SessionEnded,
    TransactionAborted,
)
from zsmtp.proto.server_replies import GO_AHEAD, NO_ROOM, OK, make_reply
from zsmtp.proto.server_settings import ServerBounds, ServerSettings
from zsmtp.proto.server_stream import MAX_UNENDED_LINE
from zsmtp.proto.session import Lost, Session, StepAnswered

REFUSED = make_reply(550, "5.1.1", "no")
LENIENT = replace(SETTINGS, strict_pipelining=False, binary_mime=True, bounds=ServerBounds(line=1000, errors=5))

LINES = st.sampled_from(
    [
        *[b"EHLO me\r\n", b"HELO me\r\n", b"RSET\r\n", b"NOOP\r\n", b"VRFY x\r\n", b"QUIT\r\n", b"DATA\r\n", b"X\r\n"],
        *[b"MAIL FROM:<a@b>\r\n", b"MAIL FROM:<refused@b>\r\n", b"MAIL FROM:<a@b> BODY=BINARYMIME SIZE=7\r\n"] * 2,
        *[b"RCPT TO:<c@d>\r\n", b"RCPT TO:<refused@d>\r\n", b"RCPT TO:<c@d> NOTIFY=NEVER\r\n"] * 2,
        *[b"BDAT 5\r\nab\r\nc", b"BDAT 4 LAST\r\nd\r\n.", b"BDAT 0 LAST\r\n", b"BDAT 3\r\na\nb", b"BDAT 2\r\na\r"],
        *[b"text\r\n", b".\r\n", b"..dots\r\n", b"bare\n", b"\r.\r\n", b"nul\0\r\n", b"x" * 1001 + b"\r\n"],
        *[b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", b"a\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\n"]
        * 3,
    ]
)
STREAMS = st.lists(LINES, max_size=25).map(b"".join)
CUTS = st.lists(st.integers(0, 5000), max_size=12)


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    """The octets in pieces cut at these places."""
    edges = sorted({0, len(octets), *(place % (len(octets) + 1) for place in places)})
    return [octets[a:b] for a, b in pairwise(edges)]


def judge(event: ServerEvent) -> Reply:
    """An application that refuses what says so."""
    if isinstance(event, MailFrom):
        return REFUSED if event.path.startswith(b"refused") else OK
    if isinstance(event, RcptTo):
        return REFUSED if event.recipient.address.startswith(b"refused") else OK
    return GO_AHEAD if isinstance(event, MessageStart) else OK


JUDGE = {MailFrom: judge, RcptTo: judge}


def told(server: ServerTalk) -> list[object]:
    """The events without what depends on how the octets were cut: the blocks of content of complete messages only."""
    found: list[object] = []
    for event in server.events:
        if isinstance(event, MessageData):
            continue
        found.append(event)
    return [*found, *((held.mail, held.content) for held in server.held)]


@given(STREAMS, CUTS, st.sampled_from([LENIENT, replace(LENIENT, lmtp=True)]))
@example(b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\na\r\n.\r\nMAIL FROM:<>\r\n", [61, 62, 63], LENIENT)
def test_how_the_octets_are_cut_makes_no_difference(stream: bytes, places: list[int], chosen: ServerSettings) -> None:
    if chosen.lmtp:
        stream = stream.replace(b"EHLO", b"LHLO")
    whole, parts = ServerTalk(chosen, answers=JUDGE), ServerTalk(chosen, answers=JUDGE)
    whole.send(stream)
    for piece in cut(stream, places):
        parts.send(piece)
    assert parts.out == whole.out
    assert told(parts) == told(whole)


@given(STREAMS, st.randoms(use_true_random=False))
def test_when_messages_are_answered_makes_no_difference(stream: bytes, chance: random.Random) -> None:
    at_once, late = (
        ServerTalk(LENIENT, answers=JUDGE),
        ServerTalk(LENIENT, answers={**JUDGE, MessageEnd: lambda _: None}),
    )
    for server in (at_once, late):
        for line in stream.splitlines(keepends=True):
            server.send(line)
            while late.open and chance.random() < 0.3:
                late.answer(late.open.pop(chance.randrange(len(late.open))))
                late.pump()
        server.eof()
    while late.open:
        late.answer(late.open.pop(chance.randrange(len(late.open))))
        late.pump()
    # Errors are forgotten when a message is accepted, and a late answer is a late acceptance.
    if b"421" not in at_once.out + late.out:
        assert late.out == at_once.out
        assert told(late) == told(at_once)


@given(STREAMS, st.booleans())
def test_every_transaction_has_one_end(stream: bytes, lost: bool) -> None:
    server = ServerTalk(LENIENT, answers=JUDGE)
    server.send(stream)
    if lost:
        server.session.lose()
        server.pump()
    else:
        server.eof()
    assert isinstance(server.events[-1], SessionEnded)
    assert Counter(map(type, server.events))[SessionEnded] == 1
    open_transaction = False
    for event in server.events:
        if isinstance(event, MailFrom):
            assert not open_transaction
            open_transaction = judge(event) is OK
        elif isinstance(event, MessageEnd | TransactionAborted):
            assert open_transaction
            open_transaction = False
        elif isinstance(event, RcptTo | MessageStart | MessageData):
            assert open_transaction
    assert not open_transaction


OCTETS = st.binary(max_size=300) | st.text(max_size=100).map(str.encode) | LINES


@given(st.lists(OCTETS, max_size=30), st.sampled_from([SETTINGS, LENIENT, LMTP]), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_nothing_raises_and_nothing_piles_up(
    pieces: list[bytes], chosen: ServerSettings, chance: random.Random
) -> None:
    server = ServerTalk(
        chosen, answers={kind: lambda event: chance.choice([None, OK, NO_ROOM]) for kind in (MailFrom,)}
    )
    for piece in pieces:
        server.send(piece)
        session = server.session
        assert len(session._buffer) <= MAX_UNENDED_LINE + 400
        assert len(session._events) == 0
        assert session._slots.count <= chosen.bounds.replies
        deadline = session.deadline()
        assert deadline is None or deadline > server.now
        if server.open and chance.random() < 0.5:
            server.answer(server.open.pop(), OK)
            server.pump()


@given(st.binary(min_size=1, max_size=4), st.integers(1, 400))
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_a_flood_of_anything_ends(unit: bytes, size: int) -> None:
    """Within a few hundred kilobytes, unless it is content."""
    server = ServerTalk()
    server.send(b"EHLO me\r\n")
    block = unit * (65536 // len(unit))
    for _ in range(10):
        for start in range(0, len(block), 65536 // size + 1):
            server.send(block[start : start + 65536 // size + 1])
        assert len(server.session._buffer) <= 3 * MAX_UNENDED_LINE
        assert len(server.out) < 1 << 20
    assert server.ending is not None


# ------------------------------------------------------------------------------ this project's own client, in memory

TEXTS = st.lists(
    st.sampled_from([b"", b".", b"..", b".a", b"Subject: x", b"line", b"\xc3\xa9t\xc3\xa9", b"QUIT", b"x" * 998]),
    max_size=15,
).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
MESSAGES = st.lists(st.tuples(st.lists(st.booleans(), min_size=1, max_size=3), TEXTS, st.booleans()), max_size=5)


def form(text: bytes, block: int) -> ContentForm:
    """Content as the client sends it, in blocks of so many octets."""
    wire = stuffed(b"X: y\r\n\r\n", text)
    whole = b"X: y\r\n\r\n" + text
    return ContentForm(
        len(whole),
        8,
        b"8BITMIME",
        lambda: (wire[i : i + block] for i in range(0, len(wire), block)),
        lambda: (whole[i : i + block] for i in range(0, len(whole), block)),
    )


class Pair:
    """A client's session and a server's, with a wire between them that cuts octets as chance wants."""

    def __init__(self, chosen: ServerSettings, chance: random.Random) -> None:
        self.chance = chance
        self.lmtp = chosen.lmtp
        self.server = ServerTalk(chosen, answers={**JUDGE, MessageEnd: lambda _: None})
        self.client = Session(timeouts=Timeouts(), lmtp=chosen.lmtp)
        self.answers: list[StepAnswered] = []
        self.to_client = self.server.out

    def run(self) -> None:
        """Carry octets to and fro until nothing moves."""
        while True:
            moved = self._client_speaks() | self._server_answers() | self._client_hears()
            for event in iter(self.client.next_event, None):
                assert not isinstance(event, Lost), event
                if isinstance(event, StepAnswered):
                    self.answers.append(event)
            if not moved:
                return

    def _client_speaks(self) -> bool:
        out = self.client.data_to_send(0.0)
        if not out or not self.server.session.wants_data:
            return False
        piece = bytes(out[: self.chance.choice([1, 2, 7, 50, 1000, 100_000])])
        self.client.data_written(len(piece), 0.0)
        self.to_client += self.server.send(piece)
        return True

    def _server_answers(self) -> bool:
        if not self.server.open or self.chance.random() < 0.7:
            return bool(self.server.open)
        event = self.server.open.pop(self.chance.randrange(len(self.server.open)))
        self.server.answer(event)
        self.to_client += self.server.pump()
        return True

    def _client_hears(self) -> bool:
        if not self.to_client:
            return False
        size = self.chance.choice([1, 3, 20, 1000])
        piece, self.to_client = self.to_client[:size], self.to_client[size:]
        self.client.receive_data(piece, 0.0)
        return True


@pytest.mark.parametrize("lmtp", [False, True], ids=["SMTP", "LMTP"])
@pytest.mark.parametrize("pipelining", [False, True], ids=["stepwise", "PIPELINING"])
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "CHUNKING"])
@given(MESSAGES, st.randoms(use_true_random=False), st.sampled_from(Flow))
@settings(max_examples=25)
def test_the_server_holds_what_the_client_meant(
    lmtp: bool,
    pipelining: bool,
    chunking: bool,
    messages: list[tuple[list[bool], bytes, bool]],
    chance: random.Random,
    flow: Flow,
) -> None:
    pair = Pair(replace(SETTINGS, lmtp=lmtp, pipelining=pipelining, chunking=chunking), chance)
    pair.run()
    verb = Phase.LHLO if lmtp else Phase.EHLO
    pair.client.command(verb, command.hello(verb.value.encode(), b"client.example"))
    pair.run()
    offered = parse_ehlo(pair.answers[-1].reply.lines)
    assert (offered.pipelining, offered.chunking) == (pipelining, chunking)
    if not pipelining:
        flow = Flow.STEPWISE
    transactions = [plan(number, message, offered, flow, chance) for number, message in enumerate(messages)]
    for transaction in transactions:
        pair.client.transact(transaction)
        if flow is not Flow.BLIND:
            pair.run()
    pair.run()
    pair.client.command(Phase.QUIT, command.QUIT)
    pair.run()
    check(pair, messages, transactions)


def plan(
    number: int, message: tuple[list[bool], bytes, bool], offered: object, flow: Flow, chance: random.Random
) -> Transaction:
    """One message; whoever is refused says so in the address."""
    recipients, text, refused = message
    envelope = Envelope(
        b"refused%d@b" % number if refused else b"sender%d@b" % number,
        tuple(
            EnvelopeRecipient(b"%s%d@d" % (b"good" if good else b"refused", i), b"NEVER" if i else None)
            for i, good in enumerate(recipients)
        ),
    )
    content = form(text, chance.choice([1, 10, 100_000]))
    return plan_transaction(envelope, content, offered, flow)  # type: ignore[arg-type]


def check(pair: Pair, messages: list[tuple[list[bool], bytes, bool]], transactions: list[Transaction]) -> None:
    meant = [
        (b"sender%d@b" % number, [b"good%d@d" % i for i, good in enumerate(recipients) if good], text)
        for number, (recipients, text, refused) in enumerate(messages)
        if any(recipients) and not refused
    ]
    held = [
        (one.mail.path, [recipient.address for recipient in one.recipients], one.content.removeprefix(b"X: y\r\n\r\n"))
        for one in pair.server.held
    ]
    assert held == meant
    delivered = Counter(
        answer.transaction
        for answer in pair.answers
        if answer.step.phase in (Phase.CONTENT, Phase.LAST) and answer.result is ReplyMeaning.SUCCESS
    )
    for (recipients, _, refused), transaction in zip(messages, transactions, strict=True):
        good = 0 if refused else sum(recipients)
        assert delivered[transaction] == (good if pair.lmtp else min(good, 1)), "what the client believes"
    for one in pair.server.held:
        assert one.mail.parameters.body == b"8BITMIME"
        assert one.mail.parameters.size == len(one.content)
