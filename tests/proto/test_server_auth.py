"""The server's half of AUTH: against this project's own client, the published example, and clients that cheat."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.servertalk import SETTINGS, ServerTalk, codes

from zsmtp.proto.reply import ReplyParser
from zsmtp.proto.sasl import (
    Authentication,
    ChannelBinding,
    Credentials,
    Line,
    LoginAccepted,
    Mechanism,
    Refused,
    Secret,
)
from zsmtp.proto.sasl import login as login_mechanism
from zsmtp.proto.sasl import plain as plain_mechanism
from zsmtp.proto.scram import BindingFlag, Scram
from zsmtp.proto.server_auth import Challenge, Claim, Malformed, make_exchange
from zsmtp.proto.server_events import Ending, LoginAttempt
from zsmtp.proto.server_passwords import Passwords, scram_verifier, scrypt_verifier
from zsmtp.proto.server_replies import LOGIN_UNAVAILABLE

SALT = b64decode(b"W22ZaJ0SNY7soEsUEjb6gQ==")
SCRAM = scram_verifier(b"pencil", salt=SALT)
SCRYPT = scrypt_verifier(b"pencil", salt=SALT, log_n=10)
PASSWORDS = Passwords({b"user": SCRAM, b"a,b=c": SCRAM}, {b"user": SCRYPT}, key=b"k" * 32)
BINDING = ChannelBinding("tls-server-end-point", bytes(range(32)))
MECHANISMS = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")
LOGINS = replace(SETTINGS, mechanisms=MECHANISMS)
NONCE = b"rOprNGfwEbeRWgbNEkqO"


def talk(**more: object) -> ServerTalk:
    return ServerTalk(LOGINS, passwords=PASSWORDS, bindings=(BINDING,), **more).greet()  # type: ignore[arg-type]


def credentials(user: str = "user", password: str = "pencil") -> Credentials:
    return Credentials(user.encode(), Secret(password.encode()))


def scram(user: str = "user", password: str = "pencil") -> Scram:
    return Scram(credentials(user, password), NONCE, BindingFlag.UNSUPPORTED)


def scram_plus(user: str = "user", password: str = "pencil", binding: ChannelBinding = BINDING) -> Scram:
    return Scram(credentials(user, password), NONCE, BindingFlag.USED, binding)


def log_in(server: ServerTalk, mechanism: Mechanism) -> LoginAccepted | Refused:
    """Lead the client's side of one login."""
    dialogue = Authentication(mechanism)
    step: Line | LoginAccepted | Refused = dialogue.start()
    parser = ReplyParser()
    while isinstance(step, Line):
        parser.receive_data(server.send(step.wire))
        reply = parser.next_reply()
        assert reply is not None
        step = dialogue.receive(reply)
    return step


@pytest.mark.parametrize("user", ["user", "a,b=c"])
@pytest.mark.parametrize("make", [scram, scram_plus, "plain", "login"])
def test_our_client_logs_in(make: object, user: str) -> None:
    server = talk()
    mechanism = (
        {"plain": plain_mechanism, "login": login_mechanism}[make](credentials(user))
        if isinstance(make, str)
        else make(user)  # type: ignore[operator]
    )
    assert isinstance(log_in(server, mechanism), LoginAccepted)
    assert server.session.user == user.encode()
    assert codes(server.send(b"AUTH PLAIN\r\n")) == [503], "once is enough"
    (attempt,) = server.of(LoginAttempt)
    assert isinstance(attempt, LoginAttempt)
    assert (attempt.mechanism, attempt.user, attempt.slow) == (
        mechanism.name,
        user.encode(),
        isinstance(make, str),
    )


@pytest.mark.parametrize("user", ["user", "nobody"])
@pytest.mark.parametrize("make", [scram, scram_plus, "plain", "login"])
def test_a_wrong_password_and_no_such_user_are_one(make: object, user: str) -> None:
    server = talk()
    wrong = (
        {"plain": plain_mechanism, "login": login_mechanism}[make](credentials(user, "pen"))
        if isinstance(make, str)
        else make(user, "pen")  # type: ignore[operator]
    )
    assert isinstance(log_in(server, wrong), Refused)
    assert server.session.user is None
    assert server.out.endswith(b"535 5.7.8 user or password is wrong\r\n")
    dialogue = [line[:3] for line in server.out.split(b"\r\n")[:-1]]
    assert dialogue == {"plain": [b"535"], "login": [b"334", b"334", b"535"]}.get(str(make), [b"334", b"535"])


def test_salts_are_steady_also_for_those_who_are_not_there() -> None:
    def salt(user: bytes) -> bytes:
        said = talk().send(b"AUTH SCRAM-SHA-256 " + b64encode(b"n,,n=" + user + b",r=" + NONCE) + b"\r\n")
        return b64decode(said[4:]).split(b",")[1]

    assert salt(b"nobody") == salt(b"nobody") != salt(b"somebody")
    assert salt(b"user") == b"s=W22ZaJ0SNY7soEsUEjb6gQ=="


def test_the_published_example() -> None:
    """RFC 7677 3."""
    passwords = Passwords({b"user": SCRAM}, {}, key=b"k" * 32)
    exchange = make_exchange("SCRAM-SHA-256", passwords, bindings=(), nonce=b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert exchange.respond(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == Challenge(
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    final = (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert exchange.respond(final) == Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    claim = exchange.respond(b"")
    assert isinstance(claim, Claim)
    assert (claim.user, claim.check(), claim.slow) == (b"user", True, False)


class TestPlain:
    @pytest.mark.parametrize(
        ("response", "good"),
        [
            (b"\0user\0pencil", True),
            (b"user\0user\0pencil", True),
            (b"other\0user\0pencil", False),
            (b"\0user\0pencil ", False),
            (b"\0user\0\xff", False),
            (b"\0nobody\0pencil", False),
        ],
    )
    def test_claims(self, response: bytes, good: bool) -> None:
        claim = make_exchange("PLAIN", PASSWORDS, bindings=(), nonce=NONCE).respond(response)
        assert isinstance(claim, Claim)
        assert claim.check() is good
        assert "pencil" not in repr(claim)

    @pytest.mark.parametrize(
        "response",
        [b"", b"user", b"\0user", b"\0user\0", b"\0\0pencil", b"a\0b\0c\0d", b"\0\xff\0x", b"\0" + b"u" * 256 + b"\0x"],
    )
    def test_malformed(self, response: bytes) -> None:
        assert isinstance(make_exchange("PLAIN", PASSWORDS, bindings=(), nonce=NONCE).respond(response), Malformed)

    def test_what_cannot_be_right_costs_as_much(self) -> None:
        checked = []

        class Counting:
            def matches(self, password: bytes) -> bool:
                checked.append(password)
                return True

        class Counted(Passwords):
            def plain(self, user: bytes) -> Counting:  # type: ignore[override]
                return Counting()

        passwords = Counted({}, {b"user": SCRYPT}, key=b"k" * 32)
        for response in (b"\0user\0\xff", b"other\0user\0pencil"):
            claim = make_exchange("PLAIN", passwords, bindings=(), nonce=NONCE).respond(response)
            assert isinstance(claim, Claim)
            assert claim.slow
            assert claim.check() is False
        assert checked == [b"\xff", b"pencil"]


class TestScram:
    def exchange(self, name: str = "SCRAM-SHA-256", bindings: tuple[ChannelBinding, ...] = ()):  # type: ignore[no-untyped-def]
        return make_exchange(name, PASSWORDS, bindings=bindings, nonce=b"server")

    @pytest.mark.parametrize(
        "first",
        [
            b"",
            b"n,,",
            b"n,,n=user",
            b"n,,r=x,n=user",
            b"n,n=user,r=x",
            b"x,,n=user,r=x",
            b"p=tls-server-end-point,,n=user,r=x",
            b"n,,n=,r=x",
            b"n,,n=us=er,r=x",
            b"n,,n=user,r=",
            b"n,,n=user,r=a\x01b",
            b"n,,m=ext,n=user,r=x",
            b"n,,n=\xff,r=x",
            b"n,,n=user,r=" + b"x" * 600,
        ],
    )
    def test_first_messages_that_are_none(self, first: bytes) -> None:
        assert isinstance(self.exchange().respond(first), Malformed)

    @pytest.mark.parametrize(
        "final",
        [b"", b"c=biws", b"c=biws,r=x", b"r=xserver,c=biws,p=AAAA", b"c=*,r=xserver,p=AAAA", b"c=biws,r=xserver,p=*"],
    )
    def test_final_messages_that_are_none(self, final: bytes) -> None:
        exchange = self.exchange()
        assert isinstance(exchange.respond(b"n,,n=user,r=x"), Challenge)
        assert isinstance(exchange.respond(final), Malformed)

    @pytest.mark.parametrize(
        "final",
        [
            b"c=biws,r=xserver,p=",
            b"c=biws,r=xserver,p=AAAA",
            b"c=biws,r=xserver,p=" + b64encode(bytes(32)),
            b"c=biws,r=xserver,p=" + b64encode(bytes(33)),
            b"c=biws,r=other,p=" + b64encode(bytes(32)),
        ],
    )
    def test_wrong_proofs(self, final: bytes) -> None:
        exchange = self.exchange()
        exchange.respond(b"n,,n=user,r=x")
        claim = exchange.respond(final)
        assert isinstance(claim, Claim)
        assert (claim.user, claim.check()) == (b"user", False)

    def test_a_proof_for_another_nonce(self) -> None:
        client = scram()
        exchange = self.exchange()
        challenge = exchange.respond(client.initial())
        assert isinstance(challenge, Challenge)
        nonce, salt, iterations = client._parse_first(challenge.data)
        client._parse_first = lambda message: (nonce + b"x", salt, iterations)  # type: ignore[method-assign]
        claim = exchange.respond(client.respond(challenge.data))
        assert isinstance(claim, Claim)
        assert not claim.check()

    def test_an_answer_to_the_servers_proof(self) -> None:
        client = scram()
        exchange = self.exchange()
        challenge = exchange.respond(client.initial())
        assert isinstance(challenge, Challenge)
        final = exchange.respond(client.respond(challenge.data))
        assert isinstance(final, Challenge)
        client.respond(final.data)
        assert isinstance(exchange.respond(b"more"), Malformed)

    @pytest.mark.parametrize(
        ("name", "flag", "bindings", "taken"),
        [
            ("SCRAM-SHA-256", b"n", (), True),
            ("SCRAM-SHA-256", b"y", (), True),
            ("SCRAM-SHA-256", b"y", (BINDING,), False),  # RFC 5802 6: somebody struck PLUS from the list
            ("SCRAM-SHA-256", b"n", (BINDING,), True),
            ("SCRAM-SHA-256", b"p=tls-server-end-point", (BINDING,), False),
            ("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point", (BINDING,), True),
            ("SCRAM-SHA-256-PLUS", b"p=tls-unique", (BINDING,), False),
            ("SCRAM-SHA-256-PLUS", b"n", (BINDING,), False),
            ("SCRAM-SHA-256-PLUS", b"y", (BINDING,), False),
        ],
    )
    def test_flags_of_channel_binding(
        self,
        name: str,
        flag: bytes,
        bindings: tuple[ChannelBinding, ...],
        taken: bool,
    ) -> None:
        step = self.exchange(name, bindings).respond(flag + b",,n=user,r=x")
        assert isinstance(step, Challenge) is taken

    def test_a_login_relayed_from_another_channel_fails(self) -> None:
        server = talk()
        elsewhere = ChannelBinding("tls-server-end-point", bytes(32))
        assert isinstance(log_in(server, scram_plus(binding=elsewhere)), Refused)

    @pytest.mark.parametrize(
        ("identity", "good"), [(b"", True), (b"a=user", True), (b"a=other", False), (b"user", False)]
    )
    def test_nobody_acts_for_somebody_else(self, identity: bytes, good: bool) -> None:
        client = scram()
        client._header = b"n," + identity + b","
        exchange = self.exchange()
        challenge = exchange.respond(client.initial())
        assert isinstance(challenge, Challenge)
        assert isinstance(exchange.respond(client.respond(challenge.data)), Challenge) is good

    @given(st.lists(st.binary(max_size=60), max_size=4))
    def test_no_response_raises(self, responses: list[bytes]) -> None:
        for name in ("SCRAM-SHA-256", "PLAIN", "LOGIN"):
            exchange = self.exchange(name)
            for response in (b"n,,n=user,r=" + NONCE, *responses):
                if not isinstance(exchange.respond(response), Challenge):
                    break


class TestDialogue:
    """Lines around the mechanisms (RFC 4954 4)."""

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            ([b"AUTH PLAIN"], [334]),
            ([b"AUTH PLAIN", b"*"], [334, 501]),
            ([b"AUTH PLAIN AHVzZXIAcGVuY2ls"], [235]),
            ([b"auth plain AHVzZXIAcGVuY2ls"], [235]),
            ([b"AUTH PLAIN", b"AHVzZXIAcGVuY2ls"], [334, 235]),
            ([b"AUTH PLAIN ="], [501]),
            ([b"AUTH PLAIN *"], [501]),
            ([b"AUTH PLAIN not-base64"], [501]),
            ([b"AUTH PLAIN", b"AHVzZXIAcGVuY2l"], [334, 501]),
            ([b"AUTH PLAIN", b"AHVz ZXIA"], [334, 501]),
            ([b"AUTH PLAIN", b"x" * 12290], [334, 500]),
            ([b"AUTH PLAIN " + b"x" * 12290], [500]),
            ([b"AUTH LOGIN", b"dXNlcg==", b"cGVuY2ls"], [334, 334, 235]),
            ([b"AUTH LOGIN dXNlcg==", b"cGVuY2ls"], [334, 235]),
            ([b"AUTH LOGIN", b"dXNlcg==", b"*"], [334, 334, 501]),
            ([b"AUTH CRAM-MD5"], [504]),
            ([b"AUTH"], [501]),
            ([b"AUTH PLAIN", b"RSET"], [334, 501]),
        ],
    )
    def test_dialogues(self, lines: list[bytes], said: list[int]) -> None:
        server = talk()
        assert [code for line in lines for code in codes(server.send(line + b"\r\n"))] == said
        if said[-1] != 334:
            assert codes(server.send(b"NOOP\r\n")) == [250]

    def test_prompts_of_login_are_the_usual_ones(self) -> None:
        server = talk()
        assert server.send(b"AUTH LOGIN\r\n") == b"334 VXNlcm5hbWU6\r\n"
        assert server.send(b"dXNlcg==\r\n") == b"334 UGFzc3dvcmQ6\r\n"

    def test_a_bare_lf_is_no_end_of_a_response(self) -> None:
        server = talk()
        server.send(b"AUTH PLAIN\r\n")
        assert codes(server.send(b"AHVzZXIAcGVuY2ls\n")) == [501]

    def test_cleartext_waits_for_tls(self) -> None:
        server = ServerTalk(LOGINS, passwords=PASSWORDS).greet()
        assert server.send(b"AUTH PLAIN\r\n") == b"538 5.7.11 this mechanism needs TLS\r\n"
        assert codes(server.send(b"AUTH SCRAM-SHA-256\r\n")) == [334]
        loopback = ServerTalk(replace(LOGINS, cleartext_logins=True), passwords=PASSWORDS).greet()
        assert codes(loopback.send(b"AUTH PLAIN\r\n")) == [334]
        strict = ServerTalk(replace(LOGINS, tls_required=True), passwords=PASSWORDS).greet()
        assert codes(strict.send(b"AUTH SCRAM-SHA-256\r\n")) == [530]

    def test_without_passwords_there_is_no_auth(self) -> None:
        assert codes(ServerTalk(LOGINS).greet().send(b"AUTH PLAIN\r\n")) == [502]
        assert codes(ServerTalk(SETTINGS, passwords=PASSWORDS).greet().send(b"AUTH PLAIN\r\n")) == [502]

    def test_auth_in_its_place_only(self) -> None:
        fresh = ServerTalk(LOGINS, passwords=PASSWORDS, bindings=())
        assert codes(fresh.send(b"AUTH PLAIN\r\n")) == [503]
        server = talk()
        server.send(b"MAIL FROM:<a@b>\r\n")
        assert codes(server.send(b"AUTH PLAIN\r\n")) == [503]

    def test_what_is_pipelined_behind_a_login_ends_the_session(self) -> None:
        for stream in (b"AUTH PLAIN\r\nAHVzZXIAcGVuY2ls\r\n", b"AUTH PLAIN AHVzZXIAcGVuY2ls\r\nMAIL FROM:<a@b>\r\n"):
            server = talk()
            assert codes(server.send(stream)) == [554]
            assert server.ending is Ending.OUT_OF_STEP

    def test_failed_logins_are_counted(self) -> None:
        server = talk()
        for said in ([535], [535], [535, 421]):
            assert codes(server.send(b"AUTH PLAIN " + b64encode(b"\0user\0pen") + b"\r\n")) == said
        assert server.ending is Ending.LOGINS

    def test_the_application_may_answer_later_and_otherwise(self) -> None:
        server = talk(answers={LoginAttempt: lambda event: None})
        assert server.send(b"AUTH PLAIN AHVzZXIAcGVuY2ls\r\n") == b""
        assert not server.session.wants_data
        server.answer(server.open[0], LOGIN_UNAVAILABLE)
        assert codes(server.pump()) == [454]
        assert server.session.user is None
        assert server.session.wants_data

    def test_no_event_shows_a_password(self) -> None:
        server = talk()
        server.send(b"AUTH PLAIN AHVzZXIAcGVuY2ls\r\n")
        assert "pencil" not in repr(server.events)

    def test_a_login_is_told_in_received(self) -> None:
        server = talk()
        assert server.session.protocol == "ESMTPS"
        server.send(b"AUTH PLAIN AHVzZXIAcGVuY2ls\r\n")
        assert server.session.protocol == "ESMTPSA"

    def test_a_login_in_clear_is_forgotten_under_tls(self) -> None:
        server = ServerTalk(replace(LOGINS, starttls=True), passwords=PASSWORDS).greet()
        assert isinstance(log_in(server, scram()), LoginAccepted)
        assert server.session.protocol == "ESMTPA"
        assert codes(server.send(b"STARTTLS\r\n")) == [220]
        server.session.tls_started((BINDING,), server.now)
        server.send(b"EHLO me\r\n")
        assert server.session.user is None
        assert isinstance(log_in(server, scram_plus()), LoginAccepted)

    def test_a_client_that_could_bind_where_that_is_not_offered(self) -> None:
        server = ServerTalk(replace(LOGINS, mechanisms=("SCRAM-SHA-256",)), passwords=PASSWORDS, bindings=(BINDING,))
        server.greet()
        assert isinstance(log_in(server, Scram(credentials(), NONCE, BindingFlag.NOT_OFFERED)), LoginAccepted)
        offering = talk()
        assert isinstance(log_in(offering, Scram(credentials(), NONCE, BindingFlag.NOT_OFFERED)), Refused)

    def test_mail_waits_for_a_login_where_it_must(self) -> None:
        strict = replace(LOGINS, login_required=True)
        server = ServerTalk(strict, passwords=PASSWORDS, bindings=(BINDING,)).greet()
        assert codes(server.send(b"MAIL FROM:<a@b>\r\n")) == [530]
        server.send(b"AUTH PLAIN AHVzZXIAcGVuY2ls\r\n")
        assert codes(server.send(b"MAIL FROM:<a@b> AUTH=user@example.org\r\n")) == [250]
