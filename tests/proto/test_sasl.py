"""AUTH as dialogues: what leaves for each mechanism, and what hostile servers get."""

from __future__ import annotations

import hmac
import pickle
import traceback
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import CommandError, ConfigError
from zsmtp.proto import sasl
from zsmtp.proto.reply import Reply
from zsmtp.proto.sasl import (
    MECHANISMS,
    Authentication,
    ChannelBinding,
    Credentials,
    Left,
    Line,
    LoginAccepted,
    Mechanism,
    MechanismChoice,
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


def sent(line: Line | LoginAccepted | Refused) -> bytes:
    """The octets a response line carries."""
    assert isinstance(line, Line), line
    return b64decode(line.wire.removesuffix(b"\r\n"), validate=True)


def refused(outcome: Line | LoginAccepted | Refused) -> str:
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


def cancelled(login: Authentication, reply: Reply) -> str:
    """The login is given up on ``reply``; the reason, once the server has answered ``*``."""
    assert login.receive(reply) == Line(b"*\r\n", b"*")
    return refused(login.receive(Reply(501, (b"5.7.0 cancelled",))))


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
    assert login.receive(YES) == LoginAccepted("PLAIN")


def test_login() -> None:
    login = Authentication(chosen("LOGIN"))
    assert login.start() == Line(b"AUTH LOGIN\r\n", b"AUTH LOGIN")
    assert sent(login.receive(challenge(b"Username:"))) == b"user"
    assert sent(login.receive(challenge(b"Password:"))) == b"pencil"
    assert login.receive(YES) == LoginAccepted("LOGIN")


def test_cram_md5() -> None:  # the example of RFC 2195 3
    login = Authentication(chosen("CRAM-MD5", credentials=Credentials(b"tim", Secret(b"tanstaaftanstaaf"))))
    assert login.start().wire == b"AUTH CRAM-MD5\r\n"
    response = sent(login.receive(challenge(b"<1896.697170952@postoffice.reston.mci.net>")))
    assert response == b"tim b913a602c7eda7a495b4e6e7334d3890"
    assert login.receive(YES) == LoginAccepted("CRAM-MD5")


def test_cram_md5_does_not_digest_nothing() -> None:
    login = Authentication(chosen("CRAM-MD5"))
    login.start()
    assert "empty challenge" in cancelled(login, Reply(334, (b"",)))


def test_xoauth2_hears_why_it_was_refused() -> None:
    login = Authentication(chosen("XOAUTH2", credentials=TOKEN))
    words = login.start().wire.split()
    assert b64decode(words[2]) == b"user=me@example.org\x01auth=Bearer ya29.token-value\x01\x01"
    assert login.receive(challenge(b'{"status":"401"}')) == Line(b"\r\n", b"")
    assert "bad credentials" in refused(login.receive(NO))


def test_oauthbearer() -> None:
    login = Authentication(chosen("OAUTHBEARER", credentials=Credentials(b"a=b,c", TOKEN.secret, SecretKind.BEARER)))
    words = login.start().wire.split()
    assert b64decode(words[2]) == b"n,a=a=3Db=2Cc,\x01auth=Bearer ya29.token-value\x01\x01"
    assert sent(login.receive(challenge(b'{"status":"invalid_token"}'))) == b"\x01"
    assert "just refused" in refused(login.receive(YES))


def test_an_initial_response_too_long_for_a_command_waits_for_its_challenge() -> None:
    token = Credentials(b"me", Secret(b"t" * 600), SecretKind.BEARER)
    login = Authentication(chosen("XOAUTH2", credentials=token))
    assert login.start().wire == b"AUTH XOAUTH2\r\n"
    assert sent(login.receive(Reply(334, (b"",)))).endswith(b"t" * 600 + b"\x01\x01")
    assert login.receive(YES) == LoginAccepted("XOAUTH2")


@pytest.mark.parametrize("reply", [YES, challenge(b"speak")])
def test_a_held_initial_response_is_sent_only_when_asked_for(reply: Reply) -> None:
    login = Authentication(chosen("PLAIN", credentials=Credentials(b"u" * 400, Secret(b"p"))))
    login.start()
    outcome = login.receive(reply)
    if isinstance(outcome, Line):
        outcome = login.receive(Reply(501, (b"",)))
    assert refused(outcome)


@pytest.mark.parametrize("size", range(340, 380))
def test_the_command_line_has_no_more_than_512_octets(size: int) -> None:
    login = Authentication(chosen("PLAIN", credentials=Credentials(b"u" * size, Secret(b"p"))))
    line = login.start()
    assert len(line.wire) <= 512
    if len(line.wire) < 20:
        assert len(b"AUTH PLAIN " + b64encode(b"\0" + b"u" * size + b"\0p") + b"\r\n") > 512


# -------------------------------------------------------------- hostile servers


@pytest.mark.parametrize("name", ["CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("text", [b"not base64!", b"YWJ", b"Username:"])
def test_a_challenge_that_cannot_be_read_cancels_a_login_that_has_to_read_it(name: str, text: bytes) -> None:
    login = Authentication(chosen(name, credentials=TOKEN if name in ("XOAUTH2", "OAUTHBEARER") else PASSWORD))
    login.start()
    assert "not base64" in cancelled(login, Reply(334, (text,)))


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize(
    ("reply", "reason"),
    [(Reply(334, (b"YWJj", b"YWJj")), "several lines"), (Reply(334, (b"A" * 12292,)), "12292 octets")],
)
def test_a_challenge_that_is_none_cancels_the_login(name: str, reply: Reply, reason: str) -> None:
    login = Authentication(chosen(name, credentials=TOKEN if name in ("XOAUTH2", "OAUTHBEARER") else PASSWORD))
    login.start()
    assert reason in cancelled(login, reply)


@pytest.mark.parametrize("text", [b"", b"Username:", b"not base64!", b"YWJ", b"\xff\xfe", b"334"])
def test_what_a_challenge_of_login_holds_is_of_no_use(text: bytes) -> None:
    login = Authentication(chosen("LOGIN"))
    login.start()
    assert sent(login.receive(Reply(334, (text,)))) == b"user"
    assert sent(login.receive(Reply(334, (text,)))) == b"pencil"
    assert login.receive(YES) == LoginAccepted("LOGIN")


@pytest.mark.parametrize("size", [4, 400], ids=["sent with the command", "held back"])
@pytest.mark.parametrize("text", [b"", b"go ahead", b"YWJ"])
def test_a_server_that_asks_for_plain_gets_it_and_not_for_ever(size: int, text: bytes) -> None:
    user = b"u" * size
    login = Authentication(chosen("PLAIN", credentials=Credentials(user, Secret(b"p"))))
    assert len(login.start().wire.split()) == (3 if size == 4 else 2)
    assert sent(login.receive(Reply(334, (text,)))) == b"\0" + user + b"\0p"
    again = login.receive(Reply(334, (text,)))
    if size == 400:  # as if the first one had come with the command
        again = login.receive(Reply(334, (text,)))
    assert again == Line(b"*\r\n", b"*")


def test_a_success_said_to_a_cancelled_login_is_none() -> None:
    login = Authentication(chosen("CRAM-MD5"))
    login.start()
    login.receive(Reply(334, (b"?",)))
    assert "given up" in refused(login.receive(YES))


# ------------------------------------------------------ what a refusal leaves to be tried


def choice(*offered: str, credentials: Credentials = PASSWORD, **options: Any) -> MechanismChoice:
    given: dict[str, Any] = {"cleartext_allowed": True, "bindings": (), "nonce": lambda: NONCE, **options}
    return MechanismChoice(offered, credentials, **given)


def tried(choice: MechanismChoice, server: Callable[[str], tuple[int, str, bool]]) -> list[str]:
    """The mechanisms tried at a server that refuses each: with a code and a text, before or after the proof."""
    names: list[str] = []
    while not isinstance(mechanism := choice.next(), NoMechanism):
        names.append(mechanism.name)
        login = Authentication(mechanism)
        login.start()
        code, text, late = server(mechanism.name)
        reply = Reply(code, (text.encode(),))
        challenges = [b"Username:", b"Password:"]
        if mechanism.name.startswith("SCRAM"):
            challenges = [b"r=" + NONCE + b"x,s=c2FsdA==,i=4096"]
        while late and not mechanism.proved:
            login.receive(challenge(challenges.pop(0)))
        outcome = login.receive(reply)
        assert isinstance(outcome, Refused)
        choice.refused(outcome)
    return names


PASSWORDS = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN")


@pytest.mark.parametrize(
    ("code", "text", "late", "names"),
    [
        # The secret was judged: only another kind of check may say something else, and no third time.
        (535, "5.7.8 bad credentials", True, ["SCRAM-SHA-256", "PLAIN"]),
        (535, "no enhanced code", True, ["SCRAM-SHA-256", "PLAIN"]),
        (550, "5.7.1 no", True, ["SCRAM-SHA-256", "PLAIN"]),
        (500, "5.5.1 what", True, ["SCRAM-SHA-256", "PLAIN"]),
        # It was not: the mechanism is to blame, or the moment.
        (504, "5.5.4 unrecognised mechanism", True, ["SCRAM-SHA-256", "CRAM-MD5"]),
        (534, "5.7.9 too weak", True, ["SCRAM-SHA-256", "CRAM-MD5"]),
        (454, "4.7.0 the backend is down", True, ["SCRAM-SHA-256", "CRAM-MD5"]),
        (535, "5.7.4 not for this user", True, ["SCRAM-SHA-256", "CRAM-MD5"]),
        # Before a proof is given nothing is judged, whatever the code. PLAIN is one.
        (535, "5.7.8 no verifier for you", False, ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"]),
        (504, "5.5.4 unrecognised mechanism", False, ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"]),
        (454, "4.7.0 later", False, ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"]),
        # No mechanism changes these.
        (421, "4.3.2 closing", False, ["SCRAM-SHA-256"]),
        (503, "5.5.1 already", False, ["SCRAM-SHA-256"]),
        (530, "5.7.0 STARTTLS first", False, ["SCRAM-SHA-256"]),
    ],
)
def test_which_mechanism_follows_a_refusal(code: int, text: str, late: bool, names: list[str]) -> None:
    found = tried(choice(*PASSWORDS), lambda name: (code, text, late))
    if not late and code == 535:
        names = names[:3]  # LOGIN is checked as PLAIN is, which holds the secret from its first word on
    assert found == names


def test_without_leave_nothing_follows_that_shows_the_secret() -> None:
    offered = choice("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN", cleartext_allowed=False)
    assert tried(offered, lambda name: (535, "5.7.8 no", True)) == ["SCRAM-SHA-256", "CRAM-MD5"]
    end = offered.next()
    assert isinstance(end, NoMechanism)
    assert "PLAIN would send the secret in clear" in end.reason
    assert end.reason.count("login refused: 535 5.7.8 no") == 2


@given(
    st.lists(st.sampled_from(ALL), unique=True),
    st.sampled_from([PASSWORD, TOKEN]),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from([421, 454, 500, 501, 504, 530, 534, 535, 550]), st.booleans()), min_size=9),
    st.lists(st.sampled_from([BINDING, ChannelBinding("tls-server-end-point", b"x")]), unique=True),
)
def test_whatever_is_refused_no_account_is_locked_and_nothing_is_said_twice(
    offered: list[str],
    credentials: Credentials,
    cleartext: bool,
    answers: list[tuple[int, bool]],
    bindings: list[ChannelBinding],
) -> None:
    proofs: list[str] = []
    texts = [*answers]

    def server(name: str) -> tuple[int, str, bool]:
        code, late = texts.pop()
        if late or name in ("PLAIN", "OAUTHBEARER", "XOAUTH2"):
            proofs.append(name)
        return code, "no", late

    one = choice(*offered, credentials=credentials, cleartext_allowed=cleartext, bindings=bindings)
    names = tried(one, server)
    assert len(proofs) <= 2
    assert len(set(names)) == len(names) or names.count("SCRAM-SHA-256-PLUS") == 2
    assert set(names) <= set(offered)
    assert not {name for name in names if MECHANISMS[name].shows_secret and not cleartext}
    assert all(MECHANISMS[name].kind is credentials.kind for name in names)


def test_the_mechanisms_of_the_credentials_count_in_their_order() -> None:
    some = Credentials(b"user", Secret(b"pencil"), mechanisms=("PLAIN", "SCRAM-SHA-256", "X-UNKNOWN", "XOAUTH2"))
    assert tried(choice(*ALL, credentials=some), lambda name: (504, "no", False)) == ["PLAIN", "SCRAM-SHA-256"]
    end = choice("LOGIN", "CRAM-MD5", credentials=some).next()
    assert isinstance(end, NoMechanism)
    assert "PLAIN, SCRAM-SHA-256" in end.reason
    assert "the server lists LOGIN CRAM-MD5" in end.reason


def test_what_was_accepted_before_is_tried_first_but_not_against_the_rules() -> None:
    refuse = lambda name: (504, "no", False)  # noqa: E731
    assert tried(choice(*PASSWORDS, first="PLAIN"), refuse)[0] == "PLAIN"
    assert tried(choice(*PASSWORDS, first="PLAIN", cleartext_allowed=False), refuse)[0] == "SCRAM-SHA-256"
    assert tried(choice("SCRAM-SHA-256", first="PLAIN"), refuse) == ["SCRAM-SHA-256"]
    only = Credentials(b"user", Secret(b"pencil"), mechanisms=("CRAM-MD5",))
    assert tried(choice(*PASSWORDS, credentials=only, first="PLAIN"), refuse) == ["CRAM-MD5"]


END_POINT = ChannelBinding("tls-server-end-point", b"digest")


@pytest.mark.parametrize(
    ("offered", "bindings", "mechanisms", "headers"),
    [
        # RFC 5802 6: p with PLUS; n once the server has shown that it cannot use what this side can bind to
        (
            ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"),
            (BINDING, END_POINT),
            (),
            ["p=tls-exporter,,", "p=tls-server-end-point,,", "n,,"],
        ),
        (("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), (END_POINT,), (), ["p=tls-server-end-point,,", "n,,"]),
        # y: this side could, and the server does not list it
        (("SCRAM-SHA-256",), (BINDING,), (), ["y,,"]),
        # n: there is nothing to bind to, or this side was told not to
        (("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), (), (), ["n,,"]),
        (("SCRAM-SHA-256",), (), (), ["n,,"]),
        (("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), (BINDING,), ("SCRAM-SHA-256",), ["n,,"]),
        # whoever asks for PLUS alone wants no login without it
        (("SCRAM-SHA-256",), (BINDING,), ("SCRAM-SHA-256-PLUS",), []),
    ],
)
def test_the_flag_of_channel_binding(
    offered: tuple[str, ...], bindings: tuple[ChannelBinding, ...], mechanisms: tuple[str, ...], headers: list[str]
) -> None:
    credentials = Credentials(b"user", Secret(b"pencil"), mechanisms=mechanisms)
    one = choice(*offered, credentials=credentials, bindings=bindings)
    seen = []
    while not isinstance(mechanism := one.next(), NoMechanism):
        first = mechanism.initial()
        assert first is not None
        seen.append(first.partition(b"n=user")[0].decode())
        login = Authentication(mechanism)
        login.start()
        one.refused(hear_refused(login, Reply(535, (b"5.7.8 unsupported channel binding",))))
    assert seen == headers


def hear_refused(login: Authentication, reply: Reply) -> Refused:
    outcome = login.receive(reply)
    if isinstance(outcome, Line):
        outcome = login.receive(NO)
    assert isinstance(outcome, Refused), outcome
    return outcome


@pytest.mark.parametrize(
    ("error", "left"),
    [
        ("unsupported-channel-binding-type", Left.ALL),
        ("channel-binding-not-supported", Left.ALL),
        ("extensions-not-supported", Left.ALL),
        ("no-resources", Left.ALL),
        ("unknown-user", Left.OTHER_CHECKS),
        ("invalid-proof", Left.OTHER_CHECKS),
        ("other-error", Left.OTHER_CHECKS),
        # somebody may stand between: the secret must not follow in clear
        ("channel-bindings-dont-match", Left.NOTHING),
        ("server-does-support-channel-binding", Left.NOTHING),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_what_an_error_of_scram_leaves(error: str, left: Left, *, late: bool) -> None:
    login = Authentication(chosen("SCRAM-SHA-256-PLUS", binding=BINDING))
    login.start()
    if late:
        login.receive(challenge(b"r=" + NONCE + b"x,s=c2FsdA==,i=4096"))
    outcome = hear_refused(login, challenge(b"e=" + error.encode()))
    assert (outcome.left, outcome.proved) == (left, late)
    assert error in outcome.reason


def test_a_server_that_does_not_know_the_password_does_not_get_it_in_clear() -> None:
    one = choice("SCRAM-SHA-256", "CRAM-MD5", "PLAIN")
    login = Authentication(one.next())  # type: ignore[arg-type]
    login.start()
    login.receive(challenge(b"r=" + NONCE + b"x,s=c2FsdA==,i=4096"))
    one.refused(hear_refused(login, challenge(b"v=" + b64encode(b"x" * 32))))
    end = one.next()
    assert isinstance(end, NoMechanism)
    assert "does not know the password" in end.reason


def test_that_a_mechanism_shows_the_secret_is_said_once() -> None:
    """What is not said to do so must not."""
    for name, listed in MECHANISMS.items():
        credentials = Credentials(b"user", Secret(b"a-token-or-password"), listed.kind)
        login = Authentication(chosen(name, credentials=credentials, binding=BINDING))
        octets = login.start().wire
        for text in (b"r=" + NONCE + b"x,s=c2FsdA==,i=4096", b"more"):
            outcome = login.receive(challenge(text))
            octets += outcome.wire if isinstance(outcome, Line) else b""
        shown = b"".join(b64decode(word + b"==") for word in octets.split()[1:] if word not in (b"*", name.encode()))
        assert (b"a-token-or-password" in shown) is listed.shows_secret, name


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2"])
def test_challenges_have_an_end(name: str) -> None:
    login = Authentication(chosen(name, credentials=TOKEN if name == "XOAUTH2" else PASSWORD))
    outcome: Line | LoginAccepted | Refused = login.start()
    heard = 0
    while isinstance(outcome, Line):
        outcome = login.receive(challenge(b"more"))
        heard += 1
    assert heard <= 5
    assert refused(outcome)


@pytest.mark.parametrize("code", [421, 454, 500, 504, 530, 534, 535])
def test_every_other_reply_is_a_refusal(code: int) -> None:
    login = Authentication(chosen("PLAIN"))
    login.start()
    assert str(code) in refused(login.receive(Reply(code, (b"no",))))


@pytest.mark.parametrize("code", [200, 220, 250, 299])
def test_a_success_that_is_not_listed_counts_by_its_first_digit(code: int) -> None:
    login = Authentication(chosen("PLAIN"))
    login.start()
    assert login.receive(Reply(code, (b"yes",))) == LoginAccepted("PLAIN")


@pytest.mark.parametrize("code", [300, 335, 354])
def test_a_challenge_that_is_not_listed_counts_by_its_first_digit(code: int) -> None:
    login = Authentication(chosen("LOGIN"))
    login.start()
    assert isinstance(login.receive(Reply(code, (b"VXNlcm5hbWU6",))), Line)


def test_login_is_not_accepted_half_way() -> None:
    login = Authentication(chosen("LOGIN"))
    login.start()
    login.receive(challenge(b"Username:"))
    assert "has not asked for everything" in refused(login.receive(YES))


@given(st.lists(st.tuples(st.sampled_from([334, 235, 535, 421, 250]), st.binary(max_size=40)), min_size=8, max_size=8))
def test_no_server_gets_an_exception_or_an_endless_dialogue(replies: list[tuple[int, bytes]]) -> None:
    for name in ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"):
        login = Authentication(chosen(name))
        outcome: Line | LoginAccepted | Refused = login.start()
        for code, text in replies:
            outcome = login.receive(Reply(code, (b64encode(text) if len(text) % 2 else text,)))
            if not isinstance(outcome, Line):
                break
        assert isinstance(outcome, (LoginAccepted, Refused))


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
        outcome = login.receive(reply)
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
