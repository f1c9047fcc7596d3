"""Random worlds: several mail exchangers, each with whims at every phase, and what must hold whatever they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.effort import examples
from tests.support.network import World, content_form, message, numbered, world

from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.net.script import NEVER, Reaction, Script, ServerPace, Then
from zsmtp.net.scripted import Host, Unreachable

CONTENT = b"Subject: x\r\n\r\n" + b"hello\r\n" * 9
TWICE = b"250 ok\r\n250 unasked\r\n"

WHIMS = st.builds(
    Reaction,
    st.sampled_from(
        [
            "250 ok",
            "354 go",
            "220 hi",
            "450 4.7.1 later",
            "452 4.5.3 too many",
            "552 too many",
            "550 5.1.1 no",
            "554 no",
            "503 confused",
            "500 what",
            "421 closing",
            TWICE,
            b"250-a\r\n550 b\r\n",
            b"nonsense\r\n",
            b"",
        ]
    ),
    then=st.sampled_from([Then.GO_ON] * 4 + [Then.CLOSE, Then.RESET, Then.HANG, Then.STALL]),
    delay=st.sampled_from([0.0, 0.0, 5.0, 2000.0]),
)
ENDS = WHIMS.filter(lambda whim: not whim.octets.startswith(b"2") and whim.then is not Then.GO_ON)
GOOD = {
    "EHLO": "250-server\r\n250 PIPELINING",
    "HELO": "250 server",
    "MAIL": "250 ok",
    "RCPT": "250 ok",
    "DATA": "354 go",
    "DOT": "250 ok",
    "BDAT": "250 ok",
    "RSET": "250 ok",
    "QUIT": "221 bye",
}


def whimsical(verbs: set[str]) -> st.SearchStrategy[dict[str, list[Reaction]]]:
    """Reactions to these commands: now what they hope for, now a whim."""
    return st.fixed_dictionaries(
        {
            verb: st.lists(st.one_of(st.just(Reaction(GOOD[verb])), WHIMS, WHIMS), min_size=1, max_size=4)
            for verb in sorted(verbs)
        }
    )


def servers(*, lmtp: bool) -> st.SearchStrategy[Host]:
    verbs = sorted(GOOD.keys() - ({"EHLO", "HELO"} if lmtp else set()))
    script = st.builds(
        Script,
        greeting=st.one_of(*[st.just(Reaction("220 hi ESMTP"))] * 7, WHIMS),
        keywords=st.lists(
            st.sampled_from(
                ["PIPELINING", "PIPELINING", "CHUNKING", "LIMITS RCPTMAX=2", "LIMITS MAILMAX=1", "SIZE 20"]
            ),
            max_size=2,
        ).filter(
            lambda words: not {"PIPELINING", "CHUNKING"} <= set(words)
        ),  # content sent unasked: see test_riding.py
        replies=st.sets(st.sampled_from(verbs), max_size=2).flatmap(whimsical),
        in_content=st.one_of(*[st.none()] * 5, st.tuples(st.integers(0, 80), ENDS)),
        lmtp=st.just(lmtp),
        pace=st.sampled_from(ServerPace),
        write_sizes=st.lists(st.integers(1, 40), max_size=3),
        connect_time=st.sampled_from([0.0, 0.0, 0.3, 5.0, 500.0]),
    )
    return st.one_of(script, script, script, st.builds(Unreachable, after=st.sampled_from([0.0, 1.0, NEVER])))


WORLDS = st.booleans().flatmap(
    lambda lmtp: st.tuples(
        st.just(lmtp), st.lists(st.lists(servers(lmtp=lmtp), min_size=1, max_size=2), min_size=1, max_size=3)
    )
)


def sent_whole(there: World, path: bytes) -> bool:
    """Whether the client wrote the content to its last octet in a transaction that named this recipient."""
    for connection in there.network.connections:
        for transaction in connection.client_octets.split(b"MAIL FROM:")[1:]:
            _, named, rest = transaction.partition(b"RCPT TO:<" + path + b">")
            if named and (CONTENT + b".\r\n" in rest or b"LAST\r\n" + CONTENT in rest):
                return True
    return False


def lmtp_world(*ends: Reaction) -> tuple[bool, list[list[Host]]]:
    """One LMTP server that ends the content like this."""
    return True, [[Script(lmtp=True, replies={"DOT": list(ends)})]]


@example(lmtp_world(Reaction(b""), Reaction("250 ok")), 2, 1, NEVER)
@example(lmtp_world(Reaction("250 ok\r\n250 unasked"), Reaction("550 5.1.1 no", delay=5.0)), 2, 1, NEVER)
@example(lmtp_world(Reaction("250 ok\r\n250 unasked"), Reaction("550 5.1.1 no")), 2, 1, NEVER)
@settings(deadline=None, max_examples=examples(100))
@given(WORLDS, st.integers(1, 5), st.integers(1, 3), st.sampled_from([NEVER, NEVER, 1000.0, 1001.0, 1150.0]))
def test_what_holds_in_every_world(
    drawn: tuple[bool, Sequence[Sequence[Host]]], recipients: int, messages: int, stop_at: float
) -> None:
    lmtp, hosts = drawn
    chosen = SessionSettings(helo_name="client.example", greeting=Greeting.LHLO if lmtp else Greeting.EHLO)
    there = world(*hosts, settings=chosen, stop_at=stop_at)
    for number in range(messages):
        before = len(there.network.connections)
        paths = [b"m%d" % number + path for path in numbered(recipients)]
        # deliver() itself asserts that every recipient has exactly one verdict
        verdicts = there.deliver(message(*paths, content=content_form(CONTENT, block=16)), idle=30.0 * number)
        for path, verdict in zip(paths, verdicts, strict=True):
            check(there, path, verdict)
            assert not verdict.at_final_dot or sent_whole(there, path)
        if recipients == 1:  # nobody else's content follows this RCPT
            assert verdicts[0].at_final_dot is sent_whole(there, paths[0])
            assert verdicts[0].in_doubt is (verdicts[0].at_final_dot and verdicts[0].diagnostic.startswith("smtp; 466"))
        # each exchanger at most once, twice with HELO; one more for a link gone stale, and one per MAILMAX
        assert len(there.network.connections) - before <= 2 * len(hosts) + 1 + recipients
    there.close()
    for connection in there.network.connections:
        assert connection.closed_at is not None, "no connection is forgotten"
        assert all(at <= connection.closed_at for at, _ in connection.written)


def one_for_each(there: World, path: bytes) -> bool:
    """Whether a recipient's content had one final reply for each recipient (RFC 2033 4.2).

    If an LMTP server leaves one out, or says one twice, nothing on the wire tells whose the others are; they are taken
    in the order of the recipients.
    """
    connections = [c for c in there.network.connections if any(a.path == path for a in c.acceptances)]
    return not any(c.script.lmtp and a.reply in (b"", TWICE) for c in connections for a in c.acceptances)


def check(there: World, path: bytes, verdict: Verdict) -> None:
    """The one verdict on a recipient against what the servers saw and said."""
    takers = Counter(
        acceptance.reply[:1]
        for connection in there.network.connections
        for acceptance in connection.acceptances
        if acceptance.path == path
    )
    connections = [c for c in there.network.connections if any(a.path == path for a in c.acceptances)]
    assert all(
        acceptance.content == CONTENT
        for connection in there.network.connections
        for acceptance in connection.acceptances
        if acceptance.path == path
    ), "what is taken is the whole message"
    if verdict.fate is Disposition.DELIVERED:
        assert takers[b"2"] == 1 or not one_for_each(there, path)
        assert sum(takers.values()) == 1
        assert verdict.status.cls == 2
        assert not verdict.in_doubt
    elif verdict.fate is Disposition.FAILED:
        assert verdict.status.cls == 5
        local = verdict.status == (5, 3, 4)
        assert local or verdict.diagnostic.startswith("smtp; 5")
        assert local or b"\n" not in verdict.text.encode()
        assert takers[b"2"] == 0 or not one_for_each(there, path)
    else:
        assert verdict.status.cls == 4
    # the whole content went to at most one server for any recipient, whatever became of it
    assert len(connections) <= 1
    if verdict.in_doubt:
        assert verdict.fate is Disposition.DEFERRED
        assert verdict.at_final_dot
        assert verdict.comment == "in doubt"
    elif verdict.fate is Disposition.DEFERRED:
        # not in doubt: no server has taken it (one that stalls in its sleep may have seen all of it)
        assert takers[b"2"] == 0 or not one_for_each(there, path)
