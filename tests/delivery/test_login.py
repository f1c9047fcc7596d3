"""Logins in deliveries (RFC 4954): when a secret may leave, and that without the login no mail does."""

from __future__ import annotations

import base64
import hmac
import itertools

import pytest
from tests.support.network import World, message, world
from tests.support.security import Authority, asking
from tests.tls.certificates import NOW

from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.settings import SessionSettings
from zsmtp.errors import ConfigError
from zsmtp.events import LineReceived, LineSent
from zsmtp.net.script import Reaction, Script, Then
from zsmtp.proto.sasl import Credentials, Secret, SecretKind
from zsmtp.tls.policy import Level, TLSPolicy

PASSWORD = b"open sesame"
PLAIN = base64.b64encode(b"\0user\0" + PASSWORD).decode()
WELCOME = {"AUTH": [Reaction("235 2.7.0 welcome")]}


def settings(
    level: Level = Level.NONE,
    *,
    kind: SecretKind = SecretKind.SHARED,
    allow_cleartext: bool = False,
    required: bool = False,
    host: str = "",
) -> SessionSettings:
    """Somebody is to log in at ``host``, "" for every server."""
    secret = Secret(PASSWORD if kind is SecretKind.SHARED else b"a-token")

    def credentials_for(server: str, destination: str) -> Credentials | None:
        return Credentials(b"user", secret, kind) if host in ("", server) else None

    counter = itertools.count(100)
    return asking(
        TLSPolicy(level=level),
        credentials_for=credentials_for,
        nonce=lambda: b"rOprNGfwEbeRWgbNEk%d" % next(counter),
        allow_cleartext=allow_cleartext,
        login_required=required,
    )


def deliver(*servers: Script, chosen: SessionSettings, authority: Authority | None = None) -> World:
    anchors = authority.anchors if authority is not None else ()
    there = world(*servers, settings=chosen, now=NOW, anchors=anchors, observed=True)
    there.deliver(message())
    return there


def mechanisms(there: World, connection: int = 0) -> list[str]:
    return [line.split(" ")[1] for line in there.lines(connection) if line.startswith("AUTH ")]


def verbs(there: World, connection: int = 0) -> list[str]:
    return [line.split(" ")[0] for line in there.lines(connection)]


@pytest.mark.parametrize(
    ("kind", "offered"),
    [
        (SecretKind.SHARED, "PLAIN"),
        (SecretKind.SHARED, "LOGIN PLAIN"),
        (SecretKind.BEARER, "XOAUTH2"),
        (SecretKind.BEARER, "OAUTHBEARER XOAUTH2"),
    ],
)
def test_in_clear_no_secret_leaves_this_machine(kind: SecretKind, offered: str) -> None:
    there = deliver(Script(keywords=(f"AUTH {offered}",), replies=WELCOME), chosen=settings(kind=kind))
    assert there.fates == [Disposition.DEFERRED]
    assert str(there.verdicts[0][0].status) == "4.7.8"
    assert verbs(there) == ["EHLO", "QUIT"]


def test_opportunistic_tls_that_fails_leaves_clear_text_for_mail_and_not_for_secrets() -> None:
    broken = Script(keywords=("STARTTLS", "AUTH PLAIN"), tls="handshake failure", replies=WELCOME)
    there = deliver(broken, chosen=settings(Level.MAY))
    assert there.fates == [Disposition.DEFERRED]
    assert [set(verbs(there, n)) & {"AUTH", "MAIL"} for n in range(len(there.network.connections))] == [set(), set()]


def test_in_clear_with_leave() -> None:
    there = deliver(Script(keywords=("AUTH PLAIN",), replies=WELCOME), chosen=settings(allow_cleartext=True))
    assert there.fates == [Disposition.DELIVERED]
    assert f"AUTH PLAIN {PLAIN}" in there.lines()


def test_under_tls() -> None:
    authority = Authority.new()
    server = authority.server("mx0.example.org", keywords=("AUTH PLAIN",), replies=WELCOME)
    there = deliver(server, chosen=settings(Level.VERIFY), authority=authority)
    assert there.fates == [Disposition.DELIVERED]
    assert verbs(there)[:5] == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL"]


def test_a_challenge_can_be_answered_in_clear() -> None:
    challenge = b"<1896.697170952@postoffice.example>"
    answer = base64.b64encode(b"user " + hmac.new(PASSWORD, challenge, "md5").hexdigest().encode()).decode()
    replies = {
        "AUTH": [Reaction("334 " + base64.b64encode(challenge).decode())],
        answer.upper(): [Reaction("235 2.7.0 welcome")],
    }
    there = deliver(Script(keywords=("AUTH CRAM-MD5 PLAIN",), replies=replies), chosen=settings())
    assert there.fates == [Disposition.DELIVERED]
    assert there.lines()[1:3] == ["AUTH CRAM-MD5", answer]


@pytest.mark.parametrize(
    "refusal",
    [
        Reaction("535 5.7.8 no"),
        Reaction("550 5.7.1 no"),
        Reaction("421 4.3.2 closing", Then.CLOSE),
        Reaction("500 5.5.1 what"),
        Reaction("334 " + base64.b64encode(b"more?").decode()),
        Reaction("334 this is no base64"),
        Reaction("334-one\r\n334 two"),
        Reaction("235-2.7.0 welcome\r\n550 or not"),
        Reaction(b"", Then.CLOSE),
        Reaction(b"", Then.RESET),
        Reaction(b"", Then.HANG),
        Reaction(b"\0\xff\r\n"),
        Reaction(b"235"),
        Reaction(b"2" * 100_000, Then.CLOSE),
    ],
    ids=lambda reaction: repr(reaction.octets[:20]) + reaction.then.value,
)
def test_a_refused_login_hands_over_to_the_next_server_and_sends_no_mail(refusal: Reaction) -> None:
    """Neither without the login, nor by a mechanism that would be checked in the same way."""
    chosen = settings(allow_cleartext=True)
    refusing = Script(keywords=("AUTH PLAIN LOGIN",), replies={"AUTH": [refusal]})
    there = deliver(refusing, refusing, chosen=chosen)
    assert there.fates == [Disposition.DEFERRED]
    assert len(there.network.connections) == 2
    for number in range(2):
        assert verbs(there, number).count("AUTH") == 1
        assert "MAIL" not in verbs(there, number)
    there = deliver(refusing, Script(keywords=("AUTH PLAIN",), replies=WELCOME), chosen=settings(allow_cleartext=True))
    assert there.fates == [Disposition.DELIVERED]
    assert "MAIL" not in verbs(there)


def by_mechanism(**answers: str) -> Script:
    """A server that lists these mechanisms (``_`` for ``-``), with its answers to the AUTH commands in this order."""
    names = [name.replace("_", "-") for name in answers]
    return Script(
        keywords=(f"AUTH {' '.join(names)}",), replies={"AUTH": [Reaction(answer) for answer in answers.values()]}
    )


YES = "235 2.7.0 welcome"
NO = "535 5.7.8 bad credentials"


@pytest.mark.parametrize(
    ("script", "used", "fate"),
    [
        (by_mechanism(SCRAM_SHA_256=NO, PLAIN=YES), ["SCRAM-SHA-256", "PLAIN"], Disposition.DELIVERED),
        (by_mechanism(SCRAM_SHA_256="504 5.5.4 what", PLAIN=YES), ["SCRAM-SHA-256", "PLAIN"], Disposition.DELIVERED),
        (by_mechanism(CRAM_MD5="454 4.7.0 later", PLAIN=YES), ["CRAM-MD5", "PLAIN"], Disposition.DELIVERED),
        (by_mechanism(PLAIN="504 5.5.4 what", LOGIN=YES), ["PLAIN", "LOGIN"], Disposition.DEFERRED),  # a 235 too early
        (by_mechanism(PLAIN="534 5.7.9 too weak", LOGIN=NO), ["PLAIN", "LOGIN"], Disposition.DEFERRED),
        (by_mechanism(PLAIN="454 4.7.0 later", LOGIN=NO), ["PLAIN", "LOGIN"], Disposition.DEFERRED),
        (by_mechanism(PLAIN=NO, LOGIN=YES), ["PLAIN"], Disposition.DEFERRED),
        (
            by_mechanism(SCRAM_SHA_256=NO, CRAM_MD5=NO, PLAIN=NO, LOGIN=YES),
            ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN"],
            Disposition.DEFERRED,
        ),
    ],
)
def test_a_mechanism_that_is_refused_is_followed_by_another(script: Script, used: list[str], fate: Disposition) -> None:
    there = deliver(script, chosen=settings(allow_cleartext=True))
    assert mechanisms(there) == used
    assert there.fates == [fate]
    if fate is Disposition.DEFERRED:
        assert str(there.verdicts[0][0].status) == "4.7.8"
        assert "MAIL" not in verbs(there)
        assert all(name in there.verdicts[0][0].text for name in used)


def test_in_clear_only_mechanisms_follow_that_keep_the_secret() -> None:
    there = deliver(by_mechanism(SCRAM_SHA_256=NO, CRAM_MD5="504 what", PLAIN=YES, LOGIN=YES), chosen=settings())
    assert there.fates == [Disposition.DEFERRED]
    assert mechanisms(there) == ["SCRAM-SHA-256", "CRAM-MD5"]


def test_a_refused_mechanism_is_not_tried_again_on_each_connection() -> None:
    """Who counts failed logins must not count one for every message; after an hour the best is asked for again."""
    server = by_mechanism(SCRAM_SHA_256=NO, PLAIN=YES)
    later = Script(keywords=server.keywords, replies={"AUTH": [Reaction(YES)]})
    there = world([server, later, later, server], settings=settings(allow_cleartext=True), observed=True)
    used = []
    for number in range(4):
        there.deliver(message())
        assert there.fates == [Disposition.DELIVERED]
        there.close()
        used.append(mechanisms(there, number))
        there.network.now += 1600.0
    assert used == [["SCRAM-SHA-256", "PLAIN"], ["PLAIN"], ["PLAIN"], ["SCRAM-SHA-256", "PLAIN"]]


def test_what_was_accepted_once_and_is_refused_is_followed_by_the_others() -> None:
    changed = by_mechanism(SCRAM_SHA_256="504 5.5.4 not any more", PLAIN="504 5.5.4 nor that", LOGIN=NO)
    there = world([by_mechanism(PLAIN=YES), changed, changed], settings=settings(allow_cleartext=True), observed=True)
    for _ in range(3):
        there.deliver(message())
        there.close()
    assert [mechanisms(there, number) for number in range(3)] == [
        ["PLAIN"],
        ["PLAIN", "SCRAM-SHA-256", "LOGIN"],
        ["SCRAM-SHA-256", "PLAIN", "LOGIN"],
    ]


def test_the_session_s_own_keying_material_is_what_a_login_is_bound_to() -> None:
    """tls-exporter (RFC 9266) before the digest of the certificate (RFC 5929), and then without (RFC 5802 6)."""
    authority = Authority.new()
    unsupported = [Reaction("535 5.7.8 unsupported channel binding type")] * 2 + [Reaction("504 5.5.4 no")]
    server = authority.server(
        "mx0.example.org",
        keywords=("AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256",),
        replies={"AUTH": unsupported},
        exporter=b"e" * 32,
    )
    there = deliver(server, chosen=settings(Level.VERIFY), authority=authority)
    logins = [line.split(" ") for line in there.lines() if line.startswith("AUTH")]
    assert [name for _, name, _ in logins] == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
    headers = [base64.b64decode(text).partition(b"n=")[0] for _, _, text in logins]
    assert headers == [b"p=tls-exporter,,", b"p=tls-server-end-point,,", b"n,,"]
    nonces = [base64.b64decode(text).partition(b",r=")[2] for _, _, text in logins]
    assert len(set(nonces)) == 3


def test_who_need_not_log_in_does_not() -> None:
    chosen = settings(host="elsewhere.example.org")
    there = deliver(Script(keywords=("AUTH PLAIN",), replies=WELCOME), chosen=chosen)
    assert there.fates == [Disposition.DELIVERED]
    assert "AUTH" not in verbs(there)


def test_a_login_that_cannot_be_used_keeps_its_mail_waiting() -> None:
    def broken(server: str, destination: str) -> Credentials | None:
        raise ConfigError("logins:3: the secret is neither base64 nor plain:text")

    chosen = asking(TLSPolicy(level=Level.NONE), credentials_for=broken)
    there = deliver(Script(keywords=("AUTH PLAIN",), replies=WELCOME), chosen=chosen)
    assert there.fates == [Disposition.DEFERRED]
    assert not {"AUTH", "MAIL"} & set(verbs(there))


@pytest.mark.parametrize(
    "reply", [f"535 5.7.8 no such login: {PLAIN}", f"500 what is AUTH PLAIN {PLAIN}?", f"{PLAIN} is no command"]
)
def test_a_server_that_repeats_the_secret_does_not_bring_it_into_logs_and_reports(reply: str) -> None:
    there = deliver(
        Script(keywords=("AUTH PLAIN",), replies={"AUTH": [Reaction(reply)]}), chosen=settings(allow_cleartext=True)
    )
    (verdict,) = there.verdicts[0]
    assert verdict.fate is Disposition.DEFERRED
    assert PLAIN not in repr(verdict)
    assert PLAIN not in repr(there.heard)
    assert "***secret***" in verdict.text + repr([e for e in there.heard if isinstance(e, LineReceived)])
    assert any(isinstance(event, LineSent) and b"***secret***" in event.line for event in there.heard)


@pytest.mark.parametrize("required", [False, True])
def test_a_server_that_offers_no_login(required: bool) -> None:
    """What a stripped AUTH leads to is for the configuration to say."""
    there = deliver(Script(), chosen=settings(required=required))
    assert there.fates == [Disposition.DEFERRED if required else Disposition.DELIVERED]
    assert verbs(there)[1] == ("QUIT" if required else "MAIL")


def test_a_login_that_is_due_elsewhere_is_not_missed() -> None:
    there = deliver(Script(), chosen=settings(required=True, host="mx.elsewhere.example"))
    assert there.fates == [Disposition.DELIVERED]
