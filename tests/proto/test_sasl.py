"""AUTH as dialogues: what leaves for each mechanism, and what hostile servers get."""

from __future__ import annotations

import hmac
import pickle
import traceback
from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import CommandError, ConfigError
from zsmtp.proto import sasl
from zsmtp.proto.reply import Reply
from zsmtp.proto.sasl import (
    Accepted,
    Authentication,
    ChannelBinding,
    Credentials,
    Line,
    Mechanism,
    NoMechanism,
    Refused,
    Secret,
    SecretKind,
    auth,
    auth_response,
    choose,
)

NONCE = b"rOprNGfwEbeRWgbNEkqO"
PASSWORD = Credentials(b"user", Secret(b"pencil"))
TOKEN = Credentials(b"me@example.org", Secret(b"ya29.token-value"), SecretKind.BEARER)
BINDING = ChannelBinding("tls-exporter", b"\x01" * 32)
YES = Reply(235, (b"2.7.0 welcome",))
NO = Reply(535, (b"5.7.8 bad credentials",))

ALL = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER")


def challenge(octets: bytes) -> Reply:
    return Reply(334, (b64encode(octets),))


def chosen(
    *offered: str,
    credentials: Credentials = PASSWORD,
    cleartext_allowed: bool = True,
    binding: ChannelBinding | None = None,
) -> Mechanism:
    mechanism = choose(offered, credentials, cleartext_allowed=cleartext_allowed, channel_binding=binding, nonce=NONCE)
    assert not isinstance(mechanism, NoMechanism), mechanism.reason
    return mechanism


def why_not(*offered: str, credentials: Credentials = PASSWORD, cleartext_allowed: bool = True) -> str:
    choice = choose(offered, credentials, cleartext_allowed=cleartext_allowed, channel_binding=None, nonce=NONCE)
    assert isinstance(choice, NoMechanism)
    return choice.reason


def sent(line: Line | Accepted | Refused) -> bytes:
    """The octets a response line carries."""
    assert isinstance(line, Line), line
    return b64decode(line.wire.removesuffix(b"\r\n"), validate=True)


def refused(outcome: Line | Accepted | Refused) -> str:
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def cancelled(login: Authentication, reply: Reply) -> str:
    """The login is given up on ``reply``; the reason, once the server has answered ``*``."""
    assert login.hear(reply) == Line(b"*\r\n", b"*")
    return refused(login.hear(Reply(501, (b"5.7.0 cancelled",))))


# ------------------------------------------------------------------ the choice


@pytest.mark.parametrize(
    ("offered", "name"),
    [
        (ALL, "SCRAM-SHA-256-PLUS"),
        (("LOGIN", "PLAIN", "CRAM-MD5", "SCRAM-SHA-256"), "SCRAM-SHA-256"),
        (("LOGIN", "PLAIN", "CRAM-MD5"), "CRAM-MD5"),
        (("LOGIN", "PLAIN"), "PLAIN"),
        (("GSSAPI", "LOGIN"), "LOGIN"),
    ],
)
def test_the_best_mechanism_is_chosen(offered: tuple[str, ...], name: str) -> None:
    assert chosen(*offered, binding=BINDING).name == name


def test_plus_needs_something_to_bind_to() -> None:
    assert chosen("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256").name == "SCRAM-SHA-256"
    assert "SCRAM-SHA-256-PLUS" in why_not("SCRAM-SHA-256-PLUS")


def test_tokens_have_mechanisms_of_their_own() -> None:
    assert chosen(*ALL, credentials=TOKEN).name == "OAUTHBEARER"
    assert chosen("XOAUTH2", "PLAIN", credentials=TOKEN).name == "XOAUTH2"
    assert "bearer token" in why_not("PLAIN", "SCRAM-SHA-256", credentials=TOKEN)
    assert "password" in why_not("XOAUTH2", "OAUTHBEARER")


@pytest.mark.parametrize("credentials", [PASSWORD, TOKEN])
def test_nothing_is_sent_in_clear_without_leave(credentials: Credentials) -> None:
    reason = why_not("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER", credentials=credentials, cleartext_allowed=False)
    assert "in clear" in reason
    assert chosen(*ALL, cleartext_allowed=False).name == "SCRAM-SHA-256"


def test_a_password_that_a_mechanism_cannot_carry_falls_to_the_next() -> None:
    latin1 = Credentials(b"user", Secret(b"caf\xe9"))
    assert chosen("SCRAM-SHA-256", "CRAM-MD5", credentials=latin1).name == "CRAM-MD5"
    assert "not UTF-8" in why_not("SCRAM-SHA-256", credentials=latin1)
    assert "NUL" in why_not("PLAIN", credentials=Credentials(b"user", Secret(b"a\0b")))


@pytest.mark.parametrize("token", [b"", b"a b", b"a\x01b", b"caf\xc3\xa9"])
def test_what_is_no_token_is_not_sent(token: bytes) -> None:
    assert "token" in why_not("XOAUTH2", credentials=Credentials(b"u", Secret(token), SecretKind.BEARER))


def test_a_server_without_mechanisms() -> None:
    assert "lists none" in why_not()


# ------------------------------------------------------------ plain mechanisms


def test_plain() -> None:
    login = Authentication(chosen("PLAIN"))
    assert login.start() == Line(b"AUTH PLAIN AHVzZXIAcGVuY2ls\r\n", b"AUTH PLAIN ***secret***")
    assert login.hear(YES) == Accepted("PLAIN")


def test_login() -> None:
    login = Authentication(chosen("LOGIN"))
    assert login.start() == Line(b"AUTH LOGIN\r\n", b"AUTH LOGIN")
    assert sent(login.hear(challenge(b"Username:"))) == b"user"
    assert sent(login.hear(challenge(b"Password:"))) == b"pencil"
    assert login.hear(YES) == Accepted("LOGIN")


def test_cram_md5() -> None:  # the example of RFC 2195 3
    login = Authentication(chosen("CRAM-MD5", credentials=Credentials(b"tim", Secret(b"tanstaaftanstaaf"))))
    assert login.start().wire == b"AUTH CRAM-MD5\r\n"
    response = sent(login.hear(challenge(b"<1896.697170952@postoffice.reston.mci.net>")))
    assert response == b"tim b913a602c7eda7a495b4e6e7334d3890"
    assert login.hear(YES) == Accepted("CRAM-MD5")


def test_cram_md5_does_not_digest_nothing() -> None:
    login = Authentication(chosen("CRAM-MD5"))
    login.start()
    assert "empty challenge" in cancelled(login, Reply(334, (b"",)))


def test_xoauth2_hears_why_it_was_refused() -> None:
    login = Authentication(chosen("XOAUTH2", credentials=TOKEN))
    words = login.start().wire.split()
    assert b64decode(words[2]) == b"user=me@example.org\x01auth=Bearer ya29.token-value\x01\x01"
    assert login.hear(challenge(b'{"status":"401"}')) == Line(b"\r\n", b"")
    assert "bad credentials" in refused(login.hear(NO))


def test_oauthbearer() -> None:
    login = Authentication(chosen("OAUTHBEARER", credentials=Credentials(b"a=b,c", TOKEN.secret, SecretKind.BEARER)))
    words = login.start().wire.split()
    assert b64decode(words[2]) == b"n,a=a=3Db=2Cc,\x01auth=Bearer ya29.token-value\x01\x01"
    assert sent(login.hear(challenge(b'{"status":"invalid_token"}'))) == b"\x01"
    assert "just refused" in refused(login.hear(YES))


def test_an_initial_response_too_long_for_a_command_waits_for_its_challenge() -> None:
    token = Credentials(b"me", Secret(b"t" * 600), SecretKind.BEARER)
    login = Authentication(chosen("XOAUTH2", credentials=token))
    assert login.start().wire == b"AUTH XOAUTH2\r\n"
    assert sent(login.hear(Reply(334, (b"",)))).endswith(b"t" * 600 + b"\x01\x01")
    assert login.hear(YES) == Accepted("XOAUTH2")


@pytest.mark.parametrize("reply", [YES, challenge(b"speak")])
def test_a_held_initial_response_is_sent_only_when_asked_for(reply: Reply) -> None:
    login = Authentication(chosen("PLAIN", credentials=Credentials(b"u" * 400, Secret(b"p"))))
    login.start()
    outcome = login.hear(reply)
    if isinstance(outcome, Line):
        outcome = login.hear(Reply(501, (b"",)))
    assert refused(outcome)


@pytest.mark.parametrize("size", range(340, 380))
def test_the_command_line_has_no_more_than_512_octets(size: int) -> None:
    login = Authentication(chosen("PLAIN", credentials=Credentials(b"u" * size, Secret(b"p"))))
    line = login.start()
    assert len(line.wire) <= 512
    if len(line.wire) < 20:
        assert len(b"AUTH PLAIN " + b64encode(b"\0" + b"u" * size + b"\0p") + b"\r\n") > 512


# -------------------------------------------------------------- hostile servers


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(334, (b"not base64!",)), "not base64"),
        (Reply(334, (b"YWJj", b"YWJj")), "several lines"),
        (Reply(334, (b"A" * 12292,)), "12292 octets"),
        (Reply(334, (b"YWJ",)), "not base64"),
    ],
)
def test_a_challenge_that_is_none_cancels_the_login(name: str, reply: Reply, reason: str) -> None:
    login = Authentication(chosen(name, credentials=TOKEN if name in ("XOAUTH2", "OAUTHBEARER") else PASSWORD))
    login.start()
    assert reason in cancelled(login, reply)


def test_a_success_said_to_a_cancelled_login_is_none() -> None:
    login = Authentication(chosen("PLAIN"))
    login.start()
    login.hear(Reply(334, (b"?",)))
    assert "given up" in refused(login.hear(YES))


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2"])
def test_challenges_have_an_end(name: str) -> None:
    login = Authentication(chosen(name, credentials=TOKEN if name == "XOAUTH2" else PASSWORD))
    outcome: Line | Accepted | Refused = login.start()
    heard = 0
    while isinstance(outcome, Line):
        outcome = login.hear(challenge(b"more"))
        heard += 1
    assert heard <= 5
    assert refused(outcome)


@pytest.mark.parametrize("code", [421, 454, 500, 504, 530, 534, 535, 220, 250, 354])
def test_every_other_reply_is_a_refusal(code: int) -> None:
    login = Authentication(chosen("PLAIN"))
    login.start()
    assert str(code) in refused(login.hear(Reply(code, (b"no",))))


def test_login_is_not_accepted_half_way() -> None:
    login = Authentication(chosen("LOGIN"))
    login.start()
    login.hear(challenge(b"Username:"))
    assert "has not asked for everything" in refused(login.hear(YES))


@given(st.lists(st.tuples(st.sampled_from([334, 235, 535, 421, 250]), st.binary(max_size=40)), min_size=8, max_size=8))
def test_no_server_gets_an_exception_or_an_endless_dialogue(replies: list[tuple[int, bytes]]) -> None:
    for name in ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"):
        login = Authentication(chosen(name))
        outcome: Line | Accepted | Refused = login.start()
        for code, text in replies:
            outcome = login.hear(Reply(code, (b64encode(text) if len(text) % 2 else text,)))
            if not isinstance(outcome, Line):
                break
        assert isinstance(outcome, (Accepted, Refused))


# --------------------------------------------------------------------- lines


def test_an_empty_initial_response_is_an_equals_sign() -> None:
    assert auth("EXTERNAL", b"").wire == b"AUTH EXTERNAL =\r\n"
    assert auth_response(b"").wire == b"\r\n"


@pytest.mark.parametrize("name", ["", "PLAIN X", "PLAIN\r\nMAIL", "plain", "É", "A" * 21])
def test_a_mechanism_is_a_name(name: str) -> None:
    with pytest.raises(CommandError):
        auth(name, None)


def test_lines_have_limits() -> None:
    with pytest.raises(CommandError):
        auth("PLAIN", b"x" * 400)
    with pytest.raises(CommandError):
        auth_response(b"x" * 9300)
    assert len(auth_response(b"x" * 9210).wire) <= 12288


# ------------------------------------------------------------------- secrets


def test_secrets_do_not_show_themselves() -> None:
    secret = Secret(b"pencil")
    for text in (repr(secret), str(secret), f"{secret}", repr(PASSWORD), repr(auth("PLAIN", b"\0user\0pencil"))):
        assert "pencil" not in text
        assert "cGVuY2ls" not in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret == Secret(b"pencil")
    assert hash(secret) == hash(Secret(b"pencil"))
    assert secret != Secret(b"pencils")
    assert secret != b"pencil"


@pytest.mark.parametrize("name", ALL)
def test_neither_logs_nor_errors_hold_the_secret(name: str) -> None:
    credentials = TOKEN if "OAUTH" in name else PASSWORD
    secret = credentials.secret.reveal()
    login = Authentication(chosen(name, credentials=credentials, binding=BINDING))
    said = login.start().shown
    for reply in (challenge(b"r=" + NONCE + b"x,s=c2FsdA==,i=4096"), challenge(b"Password:"), challenge(b"?"), NO, NO):
        outcome = login.hear(reply)
        said += outcome.shown if isinstance(outcome, Line) else repr(outcome).encode()
    assert secret not in said
    assert b64encode(secret).rstrip(b"=")[:-1] not in said


def test_errors_name_what_is_wrong_without_the_secret() -> None:
    password = b"pen" + b"cil\0"
    with pytest.raises(ConfigError) as caught:
        sasl.plain(Credentials(b"user", Secret(password)))
    assert "pencil" not in "".join(traceback.format_exception(caught.value))


# ------------------------------------------------------------ channel binding


def test_binding_data_stay_out_of_texts() -> None:
    assert repr(BINDING) == "ChannelBinding('tls-exporter')"
    assert hmac.compare_digest(BINDING.data, b"\x01" * 32)
