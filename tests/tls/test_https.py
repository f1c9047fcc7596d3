"""A request over HTTPS as a rule, in virtual time: what ends it in each phase, what bounds it, and what it tells."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.effects import FetchPolicy
from zsmtp.net.script import NEVER, Reaction, ServerPace, Then, WebScript
from zsmtp.net.scripted import ScriptedNetwork, Unreachable, WebHost
from zsmtp.tls.context import WebContextOptions
from zsmtp.tls.https import FETCH_TIME, MAX_HEADER, HTTPConversation, HTTPMessage, PostAnswer, WebPlace, post
from zsmtp.tls.mtasts import FetchedPolicy, PolicyLookup, policy_of
from zsmtp.tls.problem import TLSProblem

HOST = "mta-sts.example.org"
TEXT = b"version: STSv1\nmode: none\nmax_age: 60\n"
DNS = f'_mta-sts.example.org TXT "v=STSv1; id=7"\n{HOST} A 192.0.2.1\n{HOST} AAAA 2001:db8::1'
GOOD = WebScript.serving(TEXT)
BEGAN = 1000.0


def answering(octets: bytes, then: Then = Then.GO_ON, *, delay: float = 0.0, drip: float = 0.0) -> WebScript:
    return WebScript(Reaction(octets, then, delay, drip))


def network(host: WebHost, stop_at: float = NEVER) -> ScriptedNetwork:
    return ScriptedNetwork({}, dns=DNS, now=BEGAN, stop_at=stop_at, policies={HOST: host})


async def fetch(*addresses: str) -> FetchedPolicy:
    return await FetchPolicy(HOST, addresses or ("192.0.2.1",))


def fetched(host: WebHost) -> FetchedPolicy:
    return network(host).run(fetch())


def problem(host: WebHost) -> str:
    found = fetched(host)
    assert (found.body, found.failure, found.own) == (b"", TLSProblem.STS_POLICY_FETCH_ERROR, False)
    return found.problem


def test_the_dialogue() -> None:
    there = network(GOOD)
    assert there.run(fetch()) == FetchedPolicy(TEXT)
    (connection,) = there.web_connections
    assert connection.endpoint.port == 443
    assert connection.lines_in_clear == []
    assert connection.lines[:3] == [
        "GET /.well-known/mta-sts.txt HTTP/1.1",
        f"Host: {HOST}",
        "Accept: text/plain",
    ]
    assert connection.lines[4:] == ["Connection: close", ""]
    assert connection.closed_at == BEGAN


def test_what_belongs_to_sessions_of_smtp_is_left_alone() -> None:
    heard: list[object] = []
    there = ScriptedNetwork({}, dns=DNS, policies={HOST: GOOD}, observer=heard.append)
    there.run(fetch())
    assert (heard, there.connections, there.attempts, there.handshakes) == ([], [], [], [])


# ------------------------------------------------------------------- each phase

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
PHASES: dict[str, WebHost] = {
    "connecting": Unreachable(after=NEVER),
    "handshake": replace(GOOD, tls_time=NEVER),
    "request": answering(b"", Then.STALL),
    "status": answering(b"", Then.HANG),
    "header": answering(HEAD, Then.HANG),
    "body": answering(HEAD + b"\r\nversion: ", Then.HANG),
    "dripping": answering(HEAD + b"X: y\r\n" * 1000, drip=1.0),
    "early hints without end": answering(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000, drip=0.1),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_stop_ends_it_and_says_nothing_of_the_host(phase: str) -> None:
    there = network(PHASES[phase], stop_at=BEGAN + 5)
    found = there.run(fetch())
    assert found == FetchedPolicy(failure=TLSProblem.STS_POLICY_FETCH_ERROR, problem="interrupted", own=True)
    assert there.now == BEGAN + 5
    assert all(connection.closed_at == there.now for connection in there.web_connections)


@pytest.mark.parametrize("phase", PHASES)
def test_what_a_stop_kept_away_is_not_remembered(phase: str) -> None:
    there = network(PHASES[phase], stop_at=BEGAN + 5)
    lookup = there.run(policy_of("example.org"))
    assert (lookup.policy, lookup.failure, there.policy_cache) == (None, None, {})


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "connecting"])
def test_one_deadline_bounds_all_phases(phase: str) -> None:
    there = network(PHASES[phase])
    found = there.run(fetch())
    assert (found.failure, found.problem) == (TLSProblem.STS_POLICY_FETCH_ERROR, f"{HOST} took too long")
    assert there.now == BEGAN + FETCH_TIME
    assert there.web_connections[0].closed_at == there.now


def test_phases_share_the_time() -> None:
    there = network(replace(GOOD, connect_time=9.0, tls_time=20.0, answer=replace(GOOD.answer, delay=0.9)))
    assert there.run(fetch()).body == TEXT
    there = network(replace(GOOD, connect_time=9.0, tls_time=20.0, answer=replace(GOOD.answer, delay=1.1)))
    assert there.run(fetch()).problem == f"{HOST} took too long"
    assert there.now == BEGAN + FETCH_TIME


def test_addresses_that_hang_are_tried_side_by_side() -> None:
    there = network(Unreachable(after=NEVER))
    found = there.run(fetch("192.0.2.1", "192.0.2.2", "2001:db8::1"))
    assert found.problem == f"connection to {HOST} failed: Connection timed out"
    assert there.now == BEGAN + 10.5  # the last began half a second after the first


def test_connecting_ends_with_the_time_for_all() -> None:
    there = network(Unreachable(after=NEVER))
    place = WebPlace(HOST, ("192.0.2.1", "192.0.2.2"), 443, "/")
    there.run_for_web(post(place, "text/plain", b"", WebContextOptions(), seconds=0.1))
    assert there.now == BEGAN + 0.1


# ------------------------------------------------------------- what is told of it


def test_certificates_are_told_apart_from_what_else_goes_wrong() -> None:
    bad = WebScript(Reaction(b""), tls="certificate has expired", untrusted=True)
    found = fetched(bad)
    assert found.failure is TLSProblem.STS_WEBPKI_INVALID
    assert found.problem == f"the certificate of {HOST} is not good: certificate has expired"
    assert problem(WebScript(Reaction(b""), tls="TLS handshake failed: no")) == f"{HOST}: TLS handshake failed: no"
    assert problem(Unreachable()) == f"connection to {HOST} failed: Connection refused"
    assert problem(answering(HEAD, Then.RESET)) == f"{HOST}: connection lost: Connection reset by peer"


def test_trouble_of_this_side_says_nothing_of_the_host() -> None:
    there = network(Unreachable("Too many open files", own=True))
    lookup: PolicyLookup = there.run(policy_of("example.org"))
    assert lookup.note == (f"no MTA-STS policy (not fetched: connection to {HOST} failed: Too many open files)")
    assert (lookup.failure, lookup.store, there.policy_cache) == (None, None, {})


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (HEAD + b"X: " + b"y" * MAX_HEADER + b"\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10000, "more than 65536 octets"),
        (HEAD + b"\r\n" + b"x" * 65537, "more than 65536 octets"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "does not speak HTTP"),
        (b"", "without an answer"),
        (HEAD + b"Content-Length: 9\r\n\r\nshort", "does not speak HTTP"),
    ],
)
def test_what_is_no_answer(octets: bytes, words: str) -> None:
    assert words in problem(answering(octets, Then.CLOSE))


def test_a_request_that_http_does_not_know_is_not_sent() -> None:
    conversation = HTTPConversation(HOST, HTTPMessage("GET", "/a b", (("Host", HOST),)), 30.0, None)
    assert not conversation.data_to_send(0.0)
    answer = conversation.next_event()
    assert answer is not None
    assert answer.problem.startswith("not a request: ")


# ------------------------------------------------------------------------ octets

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=5)


@given(SIZES, SIZES, st.sampled_from(ServerPace), st.sampled_from([0.0, 0.01]))
def test_how_octets_travel_changes_nothing(reads: list[int], writes: list[int], pace: ServerPace, drip: float) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(TEXT), TEXT)
    for octets in (GOOD.answer.octets, chunked):
        script = WebScript(Reaction(octets, drip=drip), read_sizes=reads, write_sizes=writes, pace=pace)
        assert fetched(script) == FetchedPolicy(TEXT)


# -------------------------------------------------------------------------- POST

PLACE = WebPlace(HOST, ("192.0.2.1",), 8443, "/reports?x=1")


def posted(host: WebHost, body: bytes = b"report") -> tuple[PostAnswer, ScriptedNetwork]:
    there = network(host)
    return there.run_for_web(post(PLACE, "application/tlsrpt+gzip", body, WebContextOptions(), seconds=30)), there


def test_a_post() -> None:
    answer, there = posted(answering(b"HTTP/1.1 201 Created\r\nContent-Length: 99999999\r\n\r\n"))
    assert answer == PostAnswer(201, f"{HOST} answers 201")
    (connection,) = there.web_connections
    head, _, body = connection.client_octets.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[:4] == [
        b"POST /reports?x=1 HTTP/1.1",
        b"Host: mta-sts.example.org:8443",
        b"Content-Type: application/tlsrpt+gzip",
        b"Content-Length: 6",
    ]
    assert body == b"report"
    assert connection.closed_at == there.now == BEGAN


def test_an_answer_before_the_whole_request_counts() -> None:
    """The server takes no more of it then."""
    conversation = HTTPConversation(HOST, HTTPMessage("POST", "/", (("Host", HOST),), b""), 30.0, None)
    conversation.data_written(10, 0.0)
    conversation.receive_data(b"HTTP/1.1 413 Content Too Large\r\n\r\n", 1.0)
    answer = conversation.next_event()
    assert answer is not None
    assert (answer.status, answer.problem) == (413, "")
    assert not conversation.data_to_send(1.0)
    assert conversation.deadline() is None


def test_a_post_that_nobody_reads_ends() -> None:
    answer, there = posted(WebScript(Reaction(b""), tls_time=0.0, write_sizes=[1]), b"x" * 100)
    assert answer == PostAnswer(0, f"{HOST} took too long")
    assert there.now == BEGAN + 30
