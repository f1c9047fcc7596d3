"""Content that leaves before its recipients are taken: what a session must have shown, and what a server must discard.

RFC 3030 4.2 has a server discard a chunk that it refuses. The servers here that do not read it as commands: what stands
in the content of one message is then done in the name of this side, in the midst of everybody's messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from tests.support.network import address, content_form, table

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.effects import Connect, ConnectResult
from zsmtp.net.script import Acceptance, Reaction, Script, ScriptedConnection, Then
from zsmtp.net.scripted import ScriptedNetwork
from zsmtp.proto.plan import Envelope, EnvelopeRecipient

D, F, L = Disposition.DELIVERED, Disposition.FAILED, Disposition.DEFERRED
CHUNKING = ("PIPELINING", "CHUNKING")
HARMLESS = b"Subject: x\r\n\r\nhello\r\n"
SMUGGLED = b"RSET\r\n%sMAIL FROM:<evil@example.net>\r\n%sRCPT TO:<victim@example.org>\r\n%sDATA\r\nboo\r\n.\r\n"


class ReadsOn(ScriptedConnection):
    """A server that answers a chunk it refuses at once, and reads its octets as commands."""

    def _begin_chunk(self, line: bytes) -> None:
        step = self.script.replies.get("BDAT", ())
        reaction = step[min(self._counts["BDAT"], len(step) - 1)] if step else Reaction("250 ok")
        if self._paths and reaction.octets.startswith(b"2"):
            super()._begin_chunk(line)
            return
        self._counts["BDAT"] += 1
        self._react(Reaction("503 5.5.1 no recipients") if not self._paths else reaction)

    def _obey(self, line: bytes) -> None:
        super()._obey(line.strip())


class Network(ScriptedNetwork):
    """One host whose connections are of the given kind."""

    def __init__(self, kind: type[ScriptedConnection], script: Script) -> None:
        super().__init__({}, dns=table(1))
        self._kind = kind
        self._script = script

    def _connect(self, effect: Connect) -> ConnectResult:
        assert effect.endpoints[0].address == address(0)
        self.connections.append(self._kind(effect.endpoints[0], self._script, self.now))
        assert len(self.connections) < 50, "connections without end"
        return ConnectResult(self.connections[-1], effect.endpoints[0])

    @property
    def acceptances(self) -> list[Acceptance]:
        return [one for connection in self.connections for one in connection.acceptances]

    def count(self, verb: str) -> int:
        return sum(line.startswith(verb) for c in self.connections for line in c.lines)


def fly(network: Network, contents: Sequence[bytes], *, lmtp: bool = False, recipients: int = 1) -> list[list[Verdict]]:
    """Deliver messages with these contents, all at hand from the start; the verdicts on their recipients."""
    found: list[dict[int, Verdict]] = [{} for _ in contents]

    def deliveries() -> Iterator[Delivery]:
        for number, content in enumerate(contents):
            paths = tuple(EnvelopeRecipient(b"m%dr%d@example.org" % (number, i)) for i in range(recipients))
            form = content_form(content)._replace(
                data=lambda own=content: iter([own.replace(b"\n.", b"\n..") + b".\r\n"])
            )
            one = Message(Envelope(b"s%d@example.net" % number, paths), lambda _, form=form: form)
            yield Delivery(one, Ledger(recipients, lambda i, verdict, own=found[number]: own.update({i: verdict})))

    greeting = Greeting.LHLO if lmtp else Greeting.EHLO
    courier = Courier(SessionSettings(helo_name="client.example", greeting=greeting))
    route = Route(DestinationRequest(destination="example.org", shuffle=lambda items: None))
    rest = deliveries()
    while (first := next(rest, None)) is not None:
        network.run(courier.deliver(route, first, lambda: next(rest, None)))
    return [[own[i] for i in range(recipients)] for own in found]


def check(network: Network, verdicts: list[list[Verdict]]) -> None:
    """Nothing was taken that nobody sent, and nobody is told more than is true."""
    taken = [one.path for one in network.acceptances if one.reply.startswith(b"2")]
    assert all(path.startswith(b"m") for path in taken), "smuggled"
    for number, own in enumerate(verdicts):
        for index, verdict in enumerate(own):
            copies = taken.count(b"m%dr%d@example.org" % (number, index))
            if verdict.fate is D:
                assert copies == 1
            elif not verdict.in_doubt:
                assert copies == 0


def refused(good: int, *, messages: int = 1) -> dict[str, list[Reaction]]:
    """The recipients of so many messages are good, those of the next ones are not."""
    return {"RCPT": [Reaction("250 ok")] * good + [Reaction("550 no")] * messages + [Reaction("250 ok")]}


@pytest.mark.parametrize("kind", [ScriptedConnection, ReadsOn])
@pytest.mark.parametrize("blanks", [b"", b" ", b"\t "])
@pytest.mark.parametrize("case", [bytes, bytes.lower])
def test_commands_in_the_content_of_a_message_for_nobody_are_not_executed(
    kind: type[ScriptedConnection], blanks: bytes, case: type[bytes]
) -> None:
    smuggled = b"Subject: x\r\n\r\n" + case(SMUGGLED % (blanks, blanks, blanks))
    network = Network(kind, Script(keywords=CHUNKING, replies=refused(4)))
    verdicts = fly(network, [HARMLESS] * 4 + [smuggled] + [HARMLESS] * 4)
    check(network, verdicts)
    assert verdicts[4][0].fate is F
    assert [own[0].fate for own in verdicts].count(D) == 8


@pytest.mark.parametrize("reply", ["450 4.3.1 no room", "552 5.3.4 too large", "503 5.5.1 what"])
@pytest.mark.parametrize("keywords", [CHUNKING, ("CHUNKING",)])
def test_nor_are_they_if_the_content_of_an_accepted_recipient_is_refused(keywords: tuple[str, ...], reply: str) -> None:
    """Such content does not go by BDAT to a server of which it is not known that it discards it."""
    smuggled = b"Subject: x\r\n\r\n" + SMUGGLED % (b"", b"", b"")
    network = Network(ReadsOn, Script(keywords=keywords, replies={"BDAT": [Reaction(reply)], "DOT": [Reaction(reply)]}))
    verdicts = fly(network, [smuggled] * 3)
    check(network, verdicts)
    assert network.count("BDAT") == 0
    assert not any(own[0].fate is D for own in verdicts)


@pytest.mark.parametrize("content", [HARMLESS, b"Subject: x\r\n\r\nNOOP\r\nRSET\r\nVRFY you\r\nQUIT\r\n"])
def test_a_server_that_reads_on_is_noticed_and_gets_no_chunks_any_more(content: bytes) -> None:
    network = Network(ReadsOn, Script(keywords=CHUNKING, replies=refused(6)))
    verdicts = fly(network, [content] * 30)
    check(network, verdicts)
    assert all(own[0].fate in (D, F) or own[0].in_doubt for own in verdicts)
    assert sum(own[0].in_doubt for own in verdicts) < 8, "those in the window when it was noticed"
    assert network.connections[0].lines.count(f"BDAT {len(content)} LAST") < 10
    assert not any(line.startswith("BDAT") for line in network.connections[1].lines)


def test_a_server_that_discards_is_known_from_the_first_chunk_it_refuses() -> None:
    """After that commands in the content cost no round trip any more."""
    smuggled = b"Subject: x\r\n\r\n" + SMUGGLED % (b"", b"", b"")
    network = Network(ScriptedConnection, Script(keywords=CHUNKING, replies=refused(3)))
    verdicts = fly(network, [HARMLESS] * 6 + [smuggled] * 60)
    check(network, verdicts)
    assert [own[0].fate for own in verdicts].count(D) == 65
    assert network.count(f"BDAT {len(smuggled)} LAST") == 59, "all but the one that was planned before"
    assert len(network.connections[0].written) < 30


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("recipients", [1, 2])
@pytest.mark.parametrize("end", ["450 4.3.1 no room", "550 5.7.1 no", "250 taken"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
@pytest.mark.parametrize("keywords", [(), ("PIPELINING",), ("CHUNKING",), CHUNKING], ids="-".join)
@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_reply_too_many_delivers_nothing_and_refuses_nothing(
    lmtp: bool, recipients: int, end: str, verb: str, keywords: tuple[str, ...], good: int
) -> None:
    """The second, third or fourth message has a command that is answered twice, in one go."""
    times = good * (recipients if verb == "RCPT" else 1)
    ends = [Reaction("250 ok")] * (good * (recipients if lmtp else 1)) + [Reaction(end)]
    replies = {verb: [*[Reaction("250 ok")] * times, Reaction("250 ok\r\n250 again"), Reaction("250 ok")]}
    script = Script(lmtp=lmtp, keywords=keywords, replies=replies | {"DOT": ends, "BDAT": ends})
    network = Network(ScriptedConnection, script)
    verdicts = fly(network, [HARMLESS] * (good + 1), lmtp=lmtp, recipients=recipients)
    check(network, verdicts)
    assert all(v.fate is D or v.in_doubt for own in verdicts[:good] for v in own)
    assert good or all(v.fate is L for v in verdicts[0]), "it rode behind nothing, so it is not sent again at once"


def test_silence_behind_a_chunk_is_no_receipt_for_it() -> None:
    """RSET is not answered: one reply too many may have come before. The peer is served strictly after that."""
    quiet = Script(keywords=CHUNKING, replies={"RSET": [Reaction("250 ok"), Reaction(b"", Then.HANG)]})
    network = Network(ScriptedConnection, quiet)
    verdicts = fly(network, [HARMLESS] * 4)
    check(network, verdicts)
    assert verdicts[1][0].in_doubt
    assert network.connections[-1].lines.count("DATA")
