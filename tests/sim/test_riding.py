"""Messages that ride on one another have the fates they would have had one by one.

Generated messages go to generated servers twice: strictly, each message by itself and each command after the answer to
the one before, and then as far ahead as PIPELINING and CHUNKING allow, with more messages at hand at generated moments.
What a server answers depends on the message and the command alone, so that both ways meet the same refusals; where its
connections break, whether it says 421, and whether it minds commands that ride behind content (503), may hit the two
ways differently and must change nothing but what is in doubt.

A server that sends more or fewer replies than commands, all of them ``250``, cannot be seen through by anybody who
does not wait for each answer (RFC 2920 3.1 builds on that); such servers are left out here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples
from tests.support.network import address, content_form, table

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.effects import Connect, ConnectResult
from zsmtp.net.script import Reaction, Script, ScriptedConnection, ServerPace, Then
from zsmtp.net.scripted import ScriptedNetwork
from zsmtp.proto.phase import Timeouts
from zsmtp.proto.plan import Envelope, EnvelopeRecipient

Key = tuple[str, int, int]  # a command, the number of its message, that of its recipient (0 where there is none)
Path = tuple[int, int]  # a message and a recipient of it

_GROUP = re.compile(rb"MAIL FROM:<s(\d+)@")


@dataclass(frozen=True)
class Behaviour:
    """How one server answers, on all its connections.

    ``cuts`` holds for each connection in turn after how many of the client's octets it breaks (None: never), and
    whether the server works on what it has received before it goes.
    """

    answers: Mapping[Key, Reaction]
    keywords: Sequence[str] = ()
    cuts: Sequence[tuple[int, bool] | None] = ()
    minds_riding: bool = False
    pace: ServerPace = ServerPace.PATIENT
    write_sizes: Sequence[int] = ()


class Server(ScriptedConnection):
    """One connection, with the strictness of a real server: no MAIL within a transaction, no content for nobody.

    ``taken`` are the messages taken over, with the number of the sender they came from; ``denied`` are refusals, by
    number of the MAIL on this connection; ``read`` is how much of what the client wrote it had read when it said 421.
    """

    def __init__(self, behaviour: Behaviour, number: int, script: Script, where: Connect, now: float) -> None:
        self.behaviour = behaviour
        self.cut = behaviour.cuts[number] if number < len(behaviour.cuts) else None
        self.taken: list[tuple[int, Path]] = []
        self.denied: set[tuple[int, Path]] = set()
        self.mails = 0
        self.read: int | None = None
        self._rode_until = 0
        self._key: Key = ("", 0, 0)
        self._message = 0
        self._sender = 0
        self._named: list[Path] = []
        self._refused_chunk = False
        super().__init__(where.endpoints[0], script, now)

    def take(self, octets: memoryview, now: float) -> int:
        room = len(octets)
        if self.cut is not None and self._end is None:
            room = min(room, self.cut[0] - self._received)
        count = super().take(octets[:room], now) if room else 0
        if self.cut is not None and self._end is None and self._received >= self.cut[0]:
            if self.cut[1]:
                self.act(now)
            self._inbox = b""
            self._end = self._end or (max(now, self._free_at), Then.RESET)
            count = count or len(octets)  # what is written into a broken connection is gone
        return count

    def _react(self, reaction: Reaction) -> bytes:
        if reaction.octets.startswith(b"421"):
            self.read = self._received - len(self._inbox)
        return super()._react(reaction)

    @property
    def _received(self) -> int:
        return sum(len(octets) for _, octets in self.written)

    def _rides(self) -> bool:
        return self.behaviour.minds_riding and self._received - len(self._inbox) <= self._rode_until

    def _obey(self, line: bytes) -> None:
        verb = line[:4].decode()
        if verb == "MAIL":
            self.mails += 1
            self._message = int(re.findall(rb"<s(\d+)@", line)[0])
            self._named = []
        out_of_place = self._rides() and verb != "QUIT"
        number = 0
        if verb == "RCPT":
            message, number = map(int, re.findall(rb"<m(\d+)r(\d+)@", line)[0])
            self._named.append((message, number))
        self._key = (verb, self._message, number)
        if verb == "BDAT":
            self._refused_chunk = out_of_place
            self._begin_chunk(line)
            return
        nested = verb == "MAIL" and self._in_transaction
        homeless = verb in ("RCPT", "DATA") and not self._in_transaction
        if out_of_place or nested or homeless:
            self._deny(self._react(Reaction("503 5.5.1 bad sequence of commands")), verb, number)
            return
        was_open = self._in_transaction
        super()._obey(line)
        if verb == "MAIL":
            self._sender = self._message
        self._in_transaction = self._in_transaction and (was_open or verb == "MAIL")

    def _answer(self, verb: str, friendly: str | Reaction) -> bytes:
        key = ("END", self._message, 0) if verb in ("DOT", "BDAT") else self._key
        own = self.behaviour.answers.get(key)
        if verb == "DATA" and not self._paths:
            own = own if own is not None and own.octets.startswith(b"354") else None
        reaction = own if own is not None else friendly
        reply = self._react(Reaction(reaction) if isinstance(reaction, str) else reaction)
        self._deny(reply, verb, self._key[2])
        return reply

    def _deny(self, reply: bytes, verb: str, number: int) -> None:
        if reply[:1] in (b"4", b"5"):
            whom = [(self._message, number)] if verb == "RCPT" else [(self._message, n) for n in range(3)]
            self.denied |= {(self.mails, path) for path in whom}

    def _finish_content(self, verb: str, content: bytes) -> None:
        self._rode_until = self._received if self._inbox else 0
        if verb == "BDAT" and (self._refused_chunk or not self._paths or not self._in_transaction):
            self._paths = [] if self._refused_chunk else self._paths
            self._deny(self._react(Reaction("503 5.5.1 valid RCPT command must precede")), verb, 0)
            return  # what was open remains open
        paths, sender = list(self._paths), self._sender
        super()._finish_content(verb, content)
        self._in_transaction = False
        if paths and self.acceptances[-1].reply.startswith(b"2"):
            for path in paths:
                message, number = map(int, re.findall(rb"m(\d+)r(\d+)@", path)[0])
                assert content == octets_of(message), "what is taken is the whole message and nothing else"
                self.taken.append((sender, (message, number)))


class Network(ScriptedNetwork):
    """The first exchanger is ``whims``, the second ``steady``; every connection stands at once."""

    def __init__(self, whims: Behaviour, steady: Behaviour) -> None:
        super().__init__({}, dns=table(2))
        self._behaviours = {address(0): whims, address(1): steady}
        self._numbers = dict.fromkeys(self._behaviours, 0)
        self.servers: list[Server] = []

    def _connect(self, effect: Connect) -> ConnectResult:
        endpoint = effect.endpoints[0]
        behaviour = self._behaviours[endpoint.address]
        script = Script(keywords=behaviour.keywords, pace=behaviour.pace, write_sizes=behaviour.write_sizes)
        server = Server(behaviour, self._numbers[endpoint.address], script, effect, self.now)
        self._numbers[endpoint.address] += 1
        self.servers.append(server)
        self.connections.append(server)
        assert len(self.servers) < 200, "connections without end"
        return ConnectResult(server, endpoint)


def octets_of(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n" % number + b"line\r\n" * (number % 5)


@dataclass
class Post:
    """A pile of messages with so many recipients each, and the verdicts on them."""

    recipients: Sequence[int]
    verdicts: dict[Path, Verdict] = field(default_factory=dict)

    def delivery(self, number: int) -> Delivery:
        count = self.recipients[number]
        paths = tuple(EnvelopeRecipient(b"m%dr%d@example.org" % (number, i)) for i in range(count))
        form = content_form(octets_of(number), block=16)

        def settle(index: int, verdict: Verdict) -> None:
            assert (number, index) not in self.verdicts, "one verdict each"
            self.verdicts[number, index] = verdict

        return Delivery(Message(Envelope(b"s%d@example.net" % number, paths), lambda _: form), Ledger(count, settle))


SETTINGS = SessionSettings(helo_name="client.example", timeouts=Timeouts(command=100.0, data=100.0, final=100.0))
STRICT = SessionSettings(helo_name="client.example", pipelining=False, timeouts=SETTINGS.timeouts)


def run(
    recipients: Sequence[int], network: Network, chosen: SessionSettings, at_hand: Sequence[bool]
) -> dict[Path, Verdict]:
    """Deliver all messages; ``at_hand`` tells, in turn, whether the next one is there when it is asked for."""
    post = Post(recipients)
    courier, route = Courier(chosen), Route(DestinationRequest(destination="example.org", shuffle=lambda items: None))
    numbers, hands = iter(range(len(recipients))), iter(at_hand)

    def more() -> Delivery | None:
        if not next(hands, True):
            return None
        number = next(numbers, None)
        return None if number is None else post.delivery(number)

    while (number := next(numbers, None)) is not None:
        if chosen.pipelining:
            network.run(courier.deliver(route, post.delivery(number), more))
        else:
            network.run(courier.deliver(route, post.delivery(number)))
    network.run(courier.close(route, "done"))
    assert post.verdicts.keys() == {(n, i) for n, count in enumerate(recipients) for i in range(count)}
    return post.verdicts


def check(network: Network, verdicts: Mapping[Path, Verdict]) -> None:
    """What every world must show, whichever way its messages went."""
    for path, verdict in verdicts.items():
        taken = [sender for server in network.servers for sender, one in server.taken if one == path]
        assert all(sender == path[0] for sender in taken), "taken in the name of another message's sender"
        assert len(taken) <= 1, "taken twice"
        if verdict.fate is Disposition.DELIVERED:
            assert taken, "nobody acknowledged it"
        elif taken:
            assert verdict.in_doubt
        undenied = [(s, n) for s in network.servers for n, one in whole(s) if one == path and (n, one) not in s.denied]
        assert len(undenied) <= 1, "sent to its end again although nobody had refused it"
        if verdict.in_doubt:
            assert verdict.fate is Disposition.DEFERRED
            assert any(one == path for server in network.servers for _, one in whole(server, read=False))
        elif undenied:  # a final reply of any meaning, or nothing at all but doubt
            assert verdict.fate is Disposition.DELIVERED or verdict.at_final_dot


def whole(server: Server, *, read: bool = True) -> list[tuple[int, Path]]:
    """The recipients whose content was written to its last octet, with the number of its MAIL.

    What came behind a 421 was not ``read``: it may be written again somewhere else. But the 421 proves it only to who
    has read it, and nothing is read behind nonsense.
    """
    found = []
    octets = server.client_octets[: server.read] if read else server.client_octets
    starts = [match.start() for match in _GROUP.finditer(octets)] + [len(octets)]
    for number, (start, end) in enumerate(pairwise(starts), start=1):
        group = octets[start:end]
        message = int(_GROUP.match(group)[1])  # type: ignore[index]
        body = octets_of(message)
        if body + b".\r\n" in group or b"LAST\r\n" + body in group:
            found += [(number, (message, int(i))) for i in re.findall(rb"RCPT TO:<m\d+r(\d+)@", group)]
    return found


REFUSALS = ["450 4.7.1 later", "550 5.7.1 no", "554 no", "503 what"]


def whims(verb: str) -> st.SearchStrategy[Reaction]:
    """What may come instead of the answer hoped for: refusals, nonsense, silence."""
    texts = {"RCPT": ["452 4.5.3 too many", "552 too many"], "DATA": ["250 odd"], "END": ["354 odd", "421 closing"]}
    refusals = st.sampled_from(REFUSALS + texts.get(verb, ["354 odd"])).map(Reaction)
    odd = st.sampled_from(
        [Reaction(b"nonsense\r\n"), Reaction(b"", Then.HANG), Reaction(b"250-unfinished\r\n", Then.HANG)]
    )
    closing = refusals.map(lambda r: Reaction(r.say, Then.CLOSE) if str(r.say).startswith("421") else r)
    return st.one_of(closing, closing, closing, odd)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[int], Behaviour, Behaviour, list[bool]]:
    recipients = draw(st.lists(st.integers(1, 3), min_size=1, max_size=9))
    keywords = draw(st.sampled_from([(), ("PIPELINING",), ("PIPELINING", "CHUNKING"), ("PIPELINING", "CHUNKING")]))
    # a session begun with HELO has no CHUNKING: no message may depend on whether DATA is used for it
    verbs = ["MAIL", "RCPT", "RCPT", "END"] if "CHUNKING" in keywords else ["MAIL", "RCPT", "DATA", "END"]
    answers: dict[Key, Reaction] = {}
    for _ in range(draw(st.integers(0, 4))):
        message = draw(st.integers(0, len(recipients) - 1))
        verb = draw(st.sampled_from(verbs))
        number = draw(st.integers(0, recipients[message] - 1)) if verb == "RCPT" else 0
        answers[verb, message, number] = draw(whims(verb))
    closing: dict[Key, Reaction] = {}
    if draw(st.booleans()):
        message = draw(st.integers(0, len(recipients) - 1))
        closing[draw(st.sampled_from(verbs[:-1])), message, 0] = Reaction("421 closing", Then.CLOSE)
    pace = draw(st.sampled_from(ServerPace))
    sizes = draw(st.lists(st.integers(1, 90), max_size=3))
    cut = st.one_of(st.none(), st.tuples(st.integers(1, 700), st.booleans()))
    first = Behaviour(
        answers | closing,
        keywords,
        cuts=draw(st.lists(cut, max_size=3)),
        minds_riding=draw(st.booleans()),
        pace=pace,
        write_sizes=sizes,
    )
    at_hand = draw(st.lists(st.sampled_from([True, True, False]), max_size=12))
    return recipients, first, Behaviour(answers, keywords, pace=pace, write_sizes=sizes), at_hand


@settings(deadline=None, max_examples=examples(150))
@given(worlds())
def test_riding_changes_nothing_but_what_is_in_doubt(
    world: tuple[list[int], Behaviour, Behaviour, list[bool]],
) -> None:
    recipients, first, second, at_hand = world
    apart, together = Network(first, second), Network(first, second)
    strict = run(recipients, apart, STRICT, ())
    riding = run(recipients, together, SETTINGS, at_hand)
    check(apart, strict)
    check(together, riding)
    in_doubt = {path[0] for verdicts in (strict, riding) for path, verdict in verdicts.items() if verdict.in_doubt}
    for path, verdict in riding.items():
        if path[0] not in in_doubt:
            assert (verdict.fate, verdict.status) == (strict[path].fate, strict[path].status), path
