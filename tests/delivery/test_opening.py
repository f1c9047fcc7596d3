"""From a plan to an open session: greetings, EHLO and its way back, and who is tried next."""

from dataclasses import replace

import pytest
from tests.support.network import World, message, run, world
from tests.support.security import Authority, asking
from tests.tls.certificates import NOW

from zsmtp.delivery.outcome import Disposition, Scope
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.errors import ConfigError
from zsmtp.events import ConnectFailed, Remark
from zsmtp.net.script import NEVER, Reaction, Script, Then
from zsmtp.net.scripted import Host, Unreachable
from zsmtp.tls.chain import TrustAnchors
from zsmtp.tls.policy import Level as TLSLevel
from zsmtp.tls.policy import TLSPolicy


def settings_with(greeting: Greeting) -> SessionSettings:
    return SessionSettings(helo_name="client.example", greeting=greeting)


def hellos(there: World) -> list[list[str]]:
    return [[line for line in c.lines if line[1:4] in ("HLO", "ELO")] for c in there.network.connections]


EHLO, HELO = "EHLO client.example", "HELO client.example"


@pytest.mark.parametrize(
    ("greeting", "banner", "said"),
    [
        (Greeting.EHLO, "220 hi", [EHLO]),
        (Greeting.HELO, "220 hi ESMTP", [HELO]),
        (Greeting.IF_ANNOUNCED, "220 hi", [HELO]),
        (Greeting.IF_ANNOUNCED, "220 hi esmtp", [EHLO]),
        (Greeting.IF_ANNOUNCED, "220-hi\r\n220 EsMtP here", [EHLO]),
    ],
)
def test_which_greeting_is_said(greeting: Greeting, banner: str, said: list[str]) -> None:
    there = run(Script(greeting=Reaction(banner)), settings=settings_with(greeting))
    assert hellos(there) == [said]
    assert there.fates == [Disposition.DELIVERED]


def test_helo_uses_no_extension() -> None:
    there = run(Script(keywords=("SIZE", "PIPELINING")), settings=settings_with(Greeting.HELO))
    assert "MAIL FROM:<a@example.net>" in there.lines()


@pytest.mark.parametrize("refusal", ["500 what", "502 no", "550 no", "450 later"])
def test_ehlo_refused_falls_back_to_helo_on_the_same_connection(refusal: str) -> None:
    there = run(Script(replies={"EHLO": [Reaction(refusal)]}))
    assert hellos(there) == [[EHLO, HELO]]
    assert there.fates == [Disposition.DELIVERED]


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
def test_a_connection_lost_on_ehlo_is_made_anew_once_with_helo(then: Then) -> None:
    there = run(Script(replies={"EHLO": [Reaction(b"", then)]}))
    assert hellos(there) == [[EHLO], [HELO]]
    assert there.fates == [Disposition.DELIVERED]


def test_a_connection_lost_on_both_hands_over_to_the_next_host() -> None:
    gone = [Reaction(b"", Then.CLOSE)]
    there = run(Script(replies={"EHLO": gone, "HELO": gone}), Script())
    assert hellos(there) == [[EHLO], [HELO], [EHLO]]
    assert there.fates == [Disposition.DELIVERED]


def test_lmtp_has_no_way_back() -> None:
    there = run(Script(lmtp=True, replies={"LHLO": [Reaction("500 no")]}), settings=settings_with(Greeting.LHLO))
    assert hellos(there) == [["LHLO client.example"]]
    assert there.fates == [Disposition.DEFERRED]


def test_421_to_ehlo_goes_to_the_next_host_and_not_to_helo() -> None:
    there = run(Script(replies={"EHLO": [Reaction("421 busy")]}), Script())
    assert hellos(there) == [[EHLO], [EHLO]]


@pytest.mark.parametrize(
    ("greetings", "fates"),
    [
        (("554 no", "220 hi"), [Disposition.DELIVERED]),
        (("450 busy", "220 hi"), [Disposition.DELIVERED]),
        (("421 busy", "220 hi"), [Disposition.DELIVERED]),
        (("nonsense", "220 hi"), [Disposition.DELIVERED]),
        (("554 no", "554 no"), [Disposition.FAILED]),
        (("554 no", "450 busy"), [Disposition.DEFERRED]),
        (("421 busy", "554 no"), [Disposition.DEFERRED]),
        (("nonsense", "554 no"), [Disposition.DEFERRED]),
        (("554 no", "250 hi"), [Disposition.DELIVERED]),
        (("554 no", "354 not a greeting"), [Disposition.DEFERRED]),
    ],
)
def test_greetings_along_the_list(greetings: tuple[str, ...], fates: list[Disposition]) -> None:
    there = run(*(Script(greeting=Reaction(text)) for text in greetings))
    assert there.fates == fates
    assert len(there.network.connections) == 2


@pytest.mark.parametrize("code", [200, 221, 250, 299])
@pytest.mark.parametrize("verb", ["greeting", "EHLO", "MAIL", "RCPT"])
def test_a_success_that_is_not_listed_counts_by_its_first_digit(verb: str, code: int) -> None:
    """RFC 5321 4.3.2: a large provider answers RCPT with 254."""
    odd = Reaction(f"{code} odd")
    there = run(Script(greeting=odd) if verb == "greeting" else Script(replies={verb: [odd]}))
    assert there.fates == [Disposition.DELIVERED]


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET, Then.HANG])
@pytest.mark.parametrize("words", ["550 5.7.1 no reverse name", "550-5.7.1 no reverse\r\n550 name", "521 5.3.2 x"])
def test_the_words_of_a_refused_ehlo_are_told_though_helo_is_not_answered(words: str, then: Then) -> None:
    there = run(Script(replies={"EHLO": [Reaction(words)], "HELO": [Reaction(b"", then)]}))
    (verdict,) = there.verdicts[0]
    assert verdict.fate is Disposition.DEFERRED, "HELO may work another time"
    assert verdict.text.startswith(f"\r<<- {EHLO}\r->> {words.split(chr(13))[0]}")
    assert f"<<- {HELO}" in verdict.text
    assert verdict.diagnostic.startswith(f"smtp; {words[:3]} (")
    assert str(verdict.status) == {"550": "4.7.1", "521": "4.3.2"}[words[:3]]
    assert verdict.level is Scope.HOST
    assert verdict.retry_after


def test_the_words_of_a_refused_ehlo_are_told_though_helo_is_refused_too() -> None:
    there = run(Script(replies={"EHLO": [Reaction("550 5.7.1 first")], "HELO": [Reaction("550 5.7.1 second")]}))
    (verdict,) = there.verdicts[0]
    assert (verdict.fate, str(verdict.status)) == (Disposition.FAILED, "5.7.1")
    assert verdict.text.lstrip("\r").split("\r") == [
        f"<<- {EHLO}",
        "->> 550 5.7.1 first",
        f"<<- {HELO}",
        "->> 550 5.7.1 second",
    ]


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (Reaction("220-hello\r\n521 5.7.1 you are listed", Then.CLOSE), "220-hello / 521 5.7.1 you are listed"),
        (Reaction(b"554-5.7.1 you are listed\r\n", Then.CLOSE), "554-5.7.1 you are listed"),
        (Reaction(b"554 5.7.1 you are listed", Then.CLOSE), "554 5.7.1 you are listed"),
        (Reaction(b"554-5.7.1 you are listed\r\n", Then.RESET), "554-5.7.1 you are listed"),
        (Reaction(b"554-5.7.1 you are listed\r\n", Then.HANG), "554-5.7.1 you are listed"),
        (Reaction("554-5.7.1 you are\r\nlisted", Then.CLOSE), "554-5.7.1 you are / listed"),
    ],
    ids=lambda one: repr(one.say) + one.then.value if isinstance(one, Reaction) else "",
)
@pytest.mark.parametrize("phase", ["greeting", "EHLO"])
def test_the_words_of_a_reply_that_is_none_are_told(greeting: Reaction, words: str, phase: str) -> None:
    """Also if HELO, on the same connection or on a new one, is not answered at all."""
    gone = [Reaction(b"", Then.CLOSE)]
    there = run(
        Script(greeting=greeting) if phase == "greeting" else Script(replies={"EHLO": [greeting], "HELO": gone})
    )
    (verdict,) = there.verdicts[0]
    assert verdict.fate is Disposition.DEFERRED
    assert words in verdict.text


def test_a_host_that_refused_is_told_quit() -> None:
    there = run(Script(greeting=Reaction("554 no")), Script())
    assert there.lines(0) == ["QUIT"]


def test_an_unreachable_host_beside_one_that_refuses_is_no_error() -> None:
    assert run(Unreachable(), Script(greeting=Reaction("554 no"))).fates == [Disposition.DEFERRED]


def test_nobody_to_be_reached() -> None:
    there = world(Unreachable(), Unreachable("No route to host"), observed=True)
    verdict = there.deliver(message())[0]
    assert (verdict.fate, str(verdict.status), verdict.level) == (Disposition.DEFERRED, "4.4.1", Scope.HOST)
    assert "mx0.example.org [192.0.2.1|25]: Connection refused" in verdict.text
    assert "mx1.example.org [192.0.2.2|25]: No route to host" in verdict.text
    assert len([event for event in there.heard if isinstance(event, ConnectFailed)]) == 2
    assert there.route.failure == verdict


def test_a_silent_greeting_costs_its_time_and_no_more() -> None:
    there = run(Script(greeting=Reaction(b"", Then.HANG)), Script())
    assert there.fates == [Disposition.DELIVERED]
    assert there.network.connections[1].opened_at == there.network.connections[0].opened_at + 300


HINT = "waits for TLS from the first octet"


@pytest.mark.parametrize(
    ("port", "greeting", "hinted"),
    [
        (465, Reaction(b"", Then.HANG), True),
        (465, Reaction(b"", Then.CLOSE), True),
        (465, Reaction(b"", Then.RESET), True),
        (25, Reaction(b"", Then.HANG), False),
        (587, Reaction(b"", Then.CLOSE), False),
        (465, Reaction(b"220-wait", Then.HANG), False),
        (465, Reaction(b"220-wait\r\n", Then.CLOSE), False),
        (465, Reaction(b"nonsense\r\n", Then.CLOSE), False),
        (465, Reaction("421 busy", Then.CLOSE), False),
        (465, Reaction("220 hi\r\n221 bye", Then.CLOSE), False),
    ],
)
def test_a_port_that_waits_for_tls_says_nothing_and_is_told_of(port: int, greeting: Reaction, *, hinted: bool) -> None:
    there = world(Script(greeting=greeting))
    there.route.request = replace(there.route.request, port=port)
    (verdict,) = there.deliver(message())
    assert verdict.fate is Disposition.DEFERRED
    assert (HINT in verdict.text) is hinted
    assert HINT not in verdict.diagnostic
    assert not hinted or "smtps://" in verdict.text.splitlines()[-1]


def test_who_began_with_tls_is_not_told_to() -> None:
    authority = Authority.new()
    silent = replace(authority.server("mx0.example.org"), greeting=Reaction(b"", Then.HANG))
    there = world(silent, settings=asking(TLSPolicy(), implicit=True), now=NOW, anchors=authority.anchors)
    there.route.request = replace(there.route.request, port=465)
    (verdict,) = there.deliver(message())
    assert there.network.handshakes
    assert "no reply within 300 s" in verdict.text
    assert HINT not in verdict.text


def test_a_stop_while_port_465_is_silent_says_nothing_of_tls() -> None:
    there = world(Script(greeting=Reaction(b"", Then.HANG)), stop_at=1001.0)
    there.route.request = replace(there.route.request, port=465)
    assert HINT not in there.deliver(message())[0].text


def test_a_dripping_greeting_costs_the_same() -> None:
    there = run(Script(greeting=Reaction("220-" + "x" * 1000, drip=10)), Script())
    assert there.network.connections[1].opened_at == there.network.connections[0].opened_at + 300


def test_too_many_keywords_are_refused() -> None:
    there = run(Script(keywords=["X"] * 1001), Script())
    assert len(there.network.connections) == 2
    assert there.fates == [Disposition.DELIVERED]


def test_a_broken_keyword_is_noted_and_the_others_are_used() -> None:
    there = world(Script(keywords=("SIZE lots", "DSN")), observed=True)
    there.deliver(message())
    assert any("SIZE lots" in event.text for event in there.heard if isinstance(event, Remark))
    assert there.lines()[1:3] == ["MAIL FROM:<a@example.net>", "RCPT TO:<r0@example.org> ORCPT=rfc822;r0@example.org"]


def test_the_name_is_an_address_literal_rather_than_an_unqualified_one() -> None:
    there = run(Script(), settings=SessionSettings(host_name="box"))
    assert hellos(there) == [["EHLO [192.0.2.200]"]]


def test_the_name_found_for_an_address_is_looked_up_once() -> None:
    dns = """
        200.2.0.192.in-addr.arpa PTR client.example.net
        client.example.net A 192.0.2.200
        example.org MX 10 mx.example.org
        mx.example.org A 192.0.2.1
    """
    there = world(Script(), dns=dns, settings=SessionSettings(host_name="box"))
    for _ in range(2):
        there.deliver(message())
        there.close()
    assert hellos(there) == [["EHLO client.example.net"]] * 2


@pytest.mark.parametrize(
    "first",
    [
        Script(connect_time=NEVER),
        Script(greeting=Reaction(b"", Then.HANG)),
        Script(replies={"EHLO": [Reaction(b"", Then.HANG)]}),
    ],
)
def test_a_stop_ends_the_opening_without_a_word_about_the_host(first: Script) -> None:
    there = world(first, stop_at=1001.0)
    verdict = there.deliver(message())[0]
    assert (verdict.fate, str(verdict.status), verdict.level) == (Disposition.DEFERRED, "4.3.2", Scope.SESSION)
    assert there.network.now == 1001.0
    assert there.route.failure is None
    assert all(connection.closed_at is not None for connection in there.network.connections)


# ------------------------------------------------------------ one address under two names

TWO_NAMES = """
    example.org MX 10 mx0.example.org
    example.org MX 20 mx1.example.org
    mx0.example.org A 192.0.2.1
    mx1.example.org A 192.0.2.1
"""


@pytest.mark.parametrize(
    "host",
    [
        Unreachable(),
        Script(greeting=Reaction("554 no")),
        Script(greeting=Reaction("421 busy", Then.CLOSE)),
        Script(greeting=Reaction(b"", Then.RESET)),
    ],
)
def test_an_address_of_two_exchangers_is_tried_once(host: Host) -> None:
    there = world(host, dns=TWO_NAMES)
    there.deliver(message())
    assert len(there.network.attempts) == 1


def test_an_address_of_two_exchangers_that_breaks_off_is_told_of_by_its_dialogue() -> None:
    there = world(Script(replies={"MAIL": [Reaction(b"", Then.RESET)]}), dns=TWO_NAMES)
    (verdict,) = there.deliver(message())
    assert len(there.network.attempts) == 1
    assert (verdict.fate, str(verdict.status), verdict.retry_after) == (Disposition.DEFERRED, "4.4.2", 0)
    assert "no address left to try" not in verdict.text


def test_an_address_of_two_exchangers_is_tried_under_the_name_that_its_certificate_has() -> None:
    authority = Authority.new()
    server = authority.server("mx1.example.org")
    there = world(
        server, dns=TWO_NAMES, settings=asking(TLSPolicy(level=TLSLevel.VERIFY)), now=NOW, anchors=authority.anchors
    )
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]
    assert [endpoint.host for _, endpoint in there.network.attempts] == ["mx0.example.org", "mx1.example.org"]
    assert "MAIL" not in " ".join(there.lines(0))


def test_trust_anchors_that_cannot_be_read_make_mail_wait() -> None:
    def unreadable() -> TrustAnchors:
        raise ConfigError("/etc/ca.pem: Permission denied")

    authority = Authority.new()
    there = world(authority.server("mx0.example.org"), settings=asking(TLSPolicy(level=TLSLevel.VERIFY)), now=NOW)
    there.network._anchors = unreadable
    (verdict,) = there.deliver(message())
    assert (verdict.fate, verdict.text.strip("\r")) == (Disposition.DEFERRED, "/etc/ca.pem: Permission denied")
    assert not verdict.in_doubt
    assert there.network.connections[0].closed_at is not None
