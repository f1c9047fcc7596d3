"""Configurations as values, as URLs, and as files whose mistakes are named with their key."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zsmtp
from zsmtp.client.config import TLS, Config, Direct, Limits, Login, Relay
from zsmtp.client.configfile import read_table
from zsmtp.client.destinations import Destinations, RouteReason, read_login, relay_security
from zsmtp.errors import ConfigError
from zsmtp.proto.sasl import SecretKind
from zsmtp.tls.policy import Level, STSUse


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "mail.toml"
    path.write_text(
        """
        helo_name = "out.example.org"
        local_address = "[192.0.2.7]"
        message_timeout = 60

        [relay]
        host = "mail.example.org"
        login = { user = "ann", password_env = "MAIL_PASSWORD", mechanisms = ["SCRAM-SHA-256", "PLAIN"] }
        tls = { level = "dane-only", min_protocol = "TLSv1.3" }

        [direct]
        nameserver = "127.0.0.1:5353"
        dane = false
        mta_sts = "testing"

        [routes]
        "Example.COM" = "lmtp:///run/lmtp.sock"
        "example.net" = { host = "192.0.2.1", port = 2525 }

        [timeouts]
        connect = 10

        [limits]
        connections = 20
        idle = 0.5

        [content]
        nonmime_8bit = "strip"
        """
    )
    config = Config.from_toml(path)
    assert config.helo_name == "out.example.org"
    assert config.message_timeout == 60.0
    assert config.relay == Relay(
        host="mail.example.org",
        login=Login(user="ann", password_env="MAIL_PASSWORD", mechanisms=("SCRAM-SHA-256", "PLAIN")),
        tls=TLS(level=Level.DANE_ONLY, min_protocol="TLSv1.3"),
    )
    assert config.relay.real_port == 587
    assert (config.direct.dane, config.direct.mta_sts) == (False, STSUse.TESTING)
    assert config.routes == {
        "example.com": Relay(host="/run/lmtp.sock", lmtp=True),
        "example.net": Relay(host="192.0.2.1", port=2525),
    }
    assert config.timeouts.connect == 10.0
    assert config.limits == Limits(connections=20, idle=0.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("relay.prot = 25", "relay.prot: there is no such key; is port meant?"),
        ("nonsense = 1", "nonsense: there is no such key"),
        ("relay.port = 25", "relay.host: is missing"),
        ("relay = 3", "relay: a table is expected or a URL"),
        ("relay = 'http://x'", "relay: a URL is expected, smtp://, smtps:// or lmtp:// with a host: http://x"),
        ("relay.host = 'a b'", "relay.host: "),
        ("relay = { host = 'x', port = 70000 }", "relay.port: 70000 is not 1 to 65535"),
        ("relay = { host = 'x', port = '25' }", "relay.port: a whole number is expected"),
        ("relay = { host = 'x', implicit = 1 }", "relay.implicit: true or false is expected"),
        (
            "relay = { host = 'x', login = { user = 'u', password = 'p' } }",
            "relay.login.password: no secret is allowed here; use password_file or password_env",
        ),
        ("relay = { host = 'x', login = { user = 'u' } }", "relay.login.password: one of password, password_file"),
        (
            "relay = { host = 'x', login = { user = 'u', password_env = 'P', mechanisms = ['XOAUTH2'] } }",
            "relay.login.mechanisms[0]: 'XOAUTH2' is no mechanism for a password: SCRAM-SHA-256-PLUS, ",
        ),
        (
            "relay = { host = 'x', login = { user = 'u', password_env = 'P', mechanisms = 'PLAIN' } }",
            "relay.login.mechan",
        ),
        ("relay = { host = 'x', tls = { level = 'strong' } }", "relay.tls.level: strong is not one of none, may, "),
        ("direct.tls.fingerprints = ['00']", "direct.tls.fingerprints[0]: not a SHA-256 or SHA-512 fingerprint"),
        ("direct.tls.level = 'fingerprint'", "direct.tls.fingerprints: they go with level fingerprint"),
        ("direct.tls.min_protocol = 'SSLv3'", "direct.tls.min_protocol: 'SSLv3' is none of TLSv1, "),
        ("direct.tls.names = 'x'", "direct.tls.names: a list of strings is expected"),
        ("direct.nameserver = 'dns.example.org'", "direct.nameserver: not the address of a name server"),
        ("direct.resolver = 'x'", "direct.resolver: there is no such key"),
        ("routes = ['x']", "routes: a table is expected"),
        ("routes.'[192.0.2.1]' = 'smtp://x'", "routes.[192.0.2.1]: not a domain"),
        ("sender_routes.'@x.example' = 'smtp://x'", "sender_routes.@x.example: neither an address nor a domain"),
        ("sender_routes.'a@[::1]' = 'smtp://x'", "sender_routes.a@[::1]: neither an address nor a domain"),
        ("sender_routes.'' = 'smtp://x'", "sender_routes.: neither an address nor a domain"),
        ("routes.'example.org'.hots = 'x'", "routes.example.org.hots: there is no such key; is host meant?"),
        ("limits.connections = 0", "limits.connections: 0 is less than 1"),
        ("limits.slow_connections = -1", "limits.slow_connections: -1 is less than 0"),
        ("limits.idle = -1", "limits.idle: -1.0 is not 0 to"),
        ("timeouts.final = 0", "timeouts.final: 0.0 is not more than 0"),
        ("message_timeout = inf", "message_timeout: inf"),
        ("message_timeout = nan", "message_timeout: nan"),
        ("local_address = 'iface:'", "local_address: not the name of an interface"),
        ("helo_name = 'Grüße'", "helo_name: not a name to greet with"),
        ("content.signed_8bit = 'x'", "content.signed_8bit: x is not one of as_is, bounce, convert"),
        ("content.default_charset = 'a b'", "content.default_charset: 'a b' is no name of a charset"),
        ("relay = ", "Invalid value"),
    ],
)
def test_a_mistake_is_named_with_the_file_and_the_key(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "mail.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        Config.from_toml(path)
    assert str(error.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Config.from_toml(tmp_path / "missing")
    path = tmp_path / "x.toml"
    path.write_bytes(b"helo_name = '\xff'")
    with pytest.raises(ConfigError, match="utf-8"):
        Config.from_toml(path)
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="more than"):
        Config.from_toml(path)


KEYS = ["relay", "direct", "routes", "limits", "host", "port", "login", "tls", "level", "user", "timeouts", "connect"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(KEYS), inner),
        max_leaves=20,
    )
)
def test_whatever_stands_in_a_file_is_read_or_refused_by_name(value: Any) -> None:
    table = value if isinstance(value, dict) else {"relay": value, "limits": value}
    try:
        read_table(table)
    except ConfigError as error:
        assert str(error).isprintable()  # noqa: PT017 - it need not raise


@pytest.mark.parametrize(
    ("url", "relay", "port"),
    [
        ("smtp://mail.example.org", Relay(host="mail.example.org"), 25),
        ("smtp://mail.example.org:2525/", Relay(host="mail.example.org", port=2525), 2525),
        ("smtps://mail.example.org", Relay(host="mail.example.org", implicit=True), 465),
        ("lmtp://[2001:db8::1]", Relay(host="2001:db8::1", lmtp=True), 24),
        ("smtp://[fe80::1%25eth0]:2525", Relay(host="fe80::1%eth0", port=2525), 2525),
        ("smtp://[fe80::1%25br-lan]", Relay(host="fe80::1%br-lan"), 25),
        ("smtp://[FE80::1%Eth0]", Relay(host="fe80::1%Eth0"), 25),
        ("lmtp:///run/a%20b.sock", Relay(host="/run/a b.sock", lmtp=True), 0),
        (
            "smtp://ann%40example.org:s%3Aecret@mail.example.org",
            Relay(host="mail.example.org", login=Login(user="ann@example.org", password="s:ecret")),
            587,
        ),
    ],
)
def test_urls(url: str, relay: Relay, port: int) -> None:
    assert Relay.from_url(url) == relay
    assert relay.real_port == port


@pytest.mark.parametrize(
    ("host", "shown", "destination"),
    [
        ("fe80::1%eth0", "[fe80::1%eth0]:25", "[fe80::1%eth0]"),
        ("[fe80::1%eth0]", "[fe80::1%eth0]:25", "[fe80::1%eth0]"),
        ("[2001:db8::1]", "[2001:db8::1]:25", "[2001:db8::1]"),
        ("192.0.2.1", "192.0.2.1:25", "[192.0.2.1]"),
        ("mail.example.org", "mail.example.org:25", "mail.example.org"),
    ],
)
def test_the_name_of_a_relay(host: str, shown: str, destination: str) -> None:
    relay = Relay(host=host)
    assert (str(relay), relay.destination) == (shown, destination)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.org",
        "smtp://",
        "smtp://h:99999",
        "smtp://h/path",
        "smtp://h?x=1",
        "smtp://u@h",
        "ftp://h",
        "smtp://[::1%25lo]",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError):
        Relay.from_url(url)


def test_a_secret_in_a_url_is_not_shown() -> None:
    relay = Relay.from_url("smtp://ann:geheim@mail.example.org")
    assert "geheim" not in repr(Config(relay=relay))
    with pytest.raises(ConfigError) as error:
        Relay.from_url("smtp://ann:geheim@mail.example.org/path")
    assert "geheim" not in str(error.value)
    with pytest.raises(ConfigError) as error:
        Relay.from_url("smtp://ann:geheim#1@mail.example.org")
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Config(relay=cast(Any, "smtp://x")), "relay: Relay is expected, not str"),
        (
            lambda: Config(routes={"example.org": cast(Any, "smtp://x")}),
            r"routes\.example\.org: Relay is expected, not str",
        ),
        (lambda: Config(timeouts=cast(Any, 5)), "timeouts: Timeouts is expected, not int"),
        (lambda: TLS(level=cast(Any, "verify")), "level: Level is expected, not str"),
        (lambda: TLS(names=cast(Any, ["a.example"])), "names: tuple is expected, not list"),
        (lambda: Direct(mta_sts=cast(Any, "off")), "mta_sts: STSUse is expected, not str"),
        (lambda: Limits(idle=cast(Any, "5")), "idle: float or int is expected, not str"),
        (lambda: Relay(host=cast(Any, None)), "host: str is expected, not NoneType"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_when_it_is_given(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}$"):
        make()


def test_a_whole_number_of_seconds_is_a_number() -> None:
    assert Limits(idle=5).idle == 5


def test_a_configuration_does_not_change() -> None:
    config = Config(routes={"example.org": Relay(host="a")})
    with pytest.raises(FrozenInstanceError):
        config.helo_name = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.routes["x"] = Relay(host="a")  # type: ignore[index]


# --------------------------------------------------------------------- secrets


def test_where_a_secret_is_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b" from a file \r\n")
    monkeypatch.setenv("ZSMTP_TEST_SECRET", "from the environment")
    assert read_login(Login(user="u", password_file=str(path))).secret.reveal() == b" from a file "
    assert read_login(Login(user="u", password_env="ZSMTP_TEST_SECRET")).secret.reveal() == b"from the environment"
    token = read_login(Login(user="u", password="t", bearer=True))
    assert token.kind is SecretKind.BEARER
    path.write_bytes(b"new\n")
    assert read_login(Login(user="u", password_file=str(path))).secret.reveal() == b"new"


def test_a_secret_that_everybody_can_read_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"secret\n")
    login = Login(user="u", password_file=str(path))
    path.chmod(0o640)
    read_login(login)
    assert caplog.messages == []
    path.chmod(0o644)
    read_login(login)
    read_login(login)
    assert caplog.messages == [f"{path}: every user of this machine can read this secret; use chmod 0600"]


def test_secrets_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(ConfigError, match="No such file"):
        read_login(Login(user="u", password_file=str(path)))
    path.write_bytes(b"\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_login(Login(user="u", password_file=str(path)))
    path.write_bytes(b"x" * 20_000)
    with pytest.raises(ConfigError, match="more than"):
        read_login(Login(user="u", password_file=str(path)))
    os.environ.pop("ZSMTP_TEST_NOT_THERE", None)
    with pytest.raises(ConfigError, match="ZSMTP_TEST_NOT_THERE is empty"):
        read_login(Login(user="u", password_env="ZSMTP_TEST_NOT_THERE"))


# ---------------------------------------------------------------- what it means


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("smtp://mail.example.org", Level.MAY),
        ("smtp://u:p@mail.example.org", Level.VERIFY),
        ("smtps://mail.example.org", Level.VERIFY),
        ("smtp://u:p@127.0.0.1", Level.MAY),
        ("smtp://u:p@localhost", Level.MAY),
    ],
)
def test_a_relay_that_is_told_a_password_is_verified(url: str, level: Level) -> None:
    security = relay_security(Relay.from_url(url))
    assert security is not None
    assert security.policy_for("anywhere").level is level


def test_a_socket_of_this_machine_needs_no_protection() -> None:
    assert relay_security(Relay.from_url("lmtp:///run/lmtp.sock")) is None


def test_where_addresses_go() -> None:
    relay = Relay(host="relay.example.org")
    places = Destinations(Config(routes={"example.com": relay, "example.net": relay}))
    assert places.of(b"a@EXAMPLE.com") == places.of(b"b@example.net")
    assert places.of(b"a@example.org").relay is None
    assert places.of(b"a@example.org").name == "example.org"
    assert places.of("a@bücher.example".encode()).name == "xn--bcher-kva.example"
    assert places.of(b"a@[192.0.2.1]").name == "[192.0.2.1]"
    everything = Destinations(Config(relay=relay, routes={"example.com": Relay(host="other.example.org")}))
    assert everything.of(b"a@example.org") == everything.of(b"b@elsewhere.example")
    assert everything.of(b"a@example.com").name == "other.example.org:25"


def test_senders_have_relays_of_their_own() -> None:
    def relay(name: str) -> Relay:
        return Relay.from_url(f"smtp://{name}@mail.example.org", password_env="X")

    ann, shop, route = relay("ann"), relay("shop"), Relay(host="inside.example.org")
    config = Config(
        relay=relay("all"),
        routes={"inside.example": route},
        sender_routes={"Ann@Shop.example": ann, "shop.example": shop, "bücher.example": shop},
    )
    places = Destinations(config)
    for sender, wanted, reason in (
        (b"ann@shop.example", ann, RouteReason.SENDER_ADDRESS),
        (b"ANN@SHOP.EXAMPLE", ann, RouteReason.SENDER_ADDRESS),
        (b"bob@shop.example", shop, RouteReason.SENDER_DOMAIN),
        ("käthe@BÜCHER.example".encode(), shop, RouteReason.SENDER_DOMAIN),
        (b"k@xn--bcher-kva.example", shop, RouteReason.SENDER_DOMAIN),
        (b"ann@a.shop.example", config.relay, RouteReason.RELAY),
        (b"shop.example@elsewhere.example", config.relay, RouteReason.RELAY),
        (b"", config.relay, RouteReason.RELAY),
    ):
        found = places.of(b"x@example.com", sender)
        assert (found.relay, found.reason) == (wanted, reason), sender
        found = places.of(b"x@Inside.example", sender)
        assert (found.relay, found.reason) == (route, RouteReason.RECIPIENT), sender
    assert places.of(b"x@example.com", b"ann@shop.example") != places.of(b"x@example.com", b"bob@shop.example")
    direct = Destinations(Config(sender_routes={"shop.example": shop}))
    assert direct.of(b"x@example.com", b"y@example.org").reason is RouteReason.DIRECT
    assert direct.of(b"x@example.com", b"y@shop.example").relay == shop
    assert config.relays == (config.relay, route, ann, shop)


def test_relays_are_told_apart_by_their_users() -> None:
    urls = ("smtp://ann@m.example", "smtp://bob%40b.example@m.example", "smtp://a%20b%2fc@m.example")
    relays = [Relay.from_url(url, password_env="X") for url in urls]
    assert [one.key for one in relays] == [
        "ann@m.example:587",
        "bob@b.example@m.example:587",
        "a%20b%2Fc@m.example:587",
    ]
    assert Relay(host="/run/lmtp").key == "/run/lmtp"
    places = Destinations(Config(sender_routes={f"d{n}.example": one for n, one in enumerate(relays)}))
    for one in relays:
        found = places.relayed(one.key)
        assert found is not None
        assert found.relay == one
    first = places.relayed("m.example:587")
    assert first is not None
    assert first.relay == relays[0]
    assert places.relayed("ann@m.example:25") is None


RELAY_SETTINGS = [
    Relay(host="m.example", port=587, login=Login(user="ann", password_env="A")),
    Relay(host="m.example", login=Login(user="ann", password_env="B")),
    Relay(host="m.example", login=Login(user="ann", password_env="A"), tls=TLS(level=Level.VERIFY)),
    Relay(host="m.example", port=587, login=Login(user="ann", password_env="A"), implicit=True),
    Relay(host="m.example", port=587, login=Login(user="ann", password_env="A"), lmtp=True),
    Relay(host="m.example", login=Login(user="ann", password_env="A", mechanisms=("PLAIN",))),
    Relay(host="m.example", login=Login(user="ann", password_env="A", bearer=True)),
    Relay(host="m.example", port=587, tls=TLS(certificate_file="/c", names=("m.example",))),
    Relay(host="m.example", port=587),
]


def test_relays_with_other_settings_are_never_one_in_a_queue() -> None:
    places = Destinations(Config(routes={f"d{n}.example": one for n, one in enumerate(RELAY_SETTINGS)}))
    keys = places.relay_keys
    assert len(set(keys.values())) == len(RELAY_SETTINGS)
    for one in RELAY_SETTINGS:
        assert re.fullmatch(r"(ann@)?m\.example:587~[0-9a-f]{8}", keys[one])
        for others in (RELAY_SETTINGS, RELAY_SETTINGS[::-1], [one]):  # more or fewer of them, in whatever order
            around = Destinations(Config(routes={f"d{n}.example": other for n, other in enumerate(others)}))
            found = around.relayed(keys[one])
            assert found is not None
            assert found.relay == one
    for name in ("ann@m.example:587", "m.example:587"):
        with pytest.raises(ConfigError, match=rf"relay {name} is one of several by now.*: {name}~.* or {name}~"):
            places.relayed(name)
    assert places.relayed("ann@m.example:587~00000000") is None


def test_what_a_relay_is_called_does_not_change_with_its_secret() -> None:
    def called(password: str) -> str:
        ann = Relay.from_url(f"smtp://ann:{password}@m.example", tls=TLS(level=Level.VERIFY))
        other = replace(ann, tls=TLS(level=Level.ENCRYPT))
        return Destinations(Config(routes={"a.example": ann, "b.example": other})).relay_keys[ann]

    assert called("first") == called("second") == "ann@m.example:587~905c2305"
    named = Relay(host="m.example", port=25), Relay(host="m.example")
    assert set(Destinations(Config(relay=named[0], routes={"a.example": named[1]})).relay_keys.values()) == {
        "m.example:25"
    }


def test_two_passwords_of_one_user_cannot_be_told_apart_in_a_queue() -> None:
    ann, again = (Relay.from_url(f"smtp://ann:{password}@m.example") for password in ("first", "second"))
    places = Destinations(Config(relay=ann, sender_routes={"a.example": again}))
    assert places.of(b"x@b.example") != places.of(b"x@b.example", b"y@a.example")
    with pytest.raises(ConfigError, match=r"relay ann@m\.example:587: 2 passwords are given") as caught:
        places.check_relays()
    assert "first" not in str(caught.value)
    named = replace(again, login=Login(user="ann", password_env="X"))
    Destinations(Config(relay=ann, sender_routes={"a.example": named})).check_relays()


def test_straight_delivery_asks_for_dane_and_mta_sts() -> None:
    settings = Destinations(Config()).settings_for(None)
    assert settings.security is not None
    assert settings.security.policy_for("example.org").dane
    assert settings.security.mta_sts is STSUse.ON
    nothing = Direct(dane=False, mta_sts=STSUse.OFF, tls=TLS(level=Level.NONE))
    assert Destinations(Config(direct=nothing)).settings_for(None).security is None


def test_public_names_are_the_same() -> None:
    assert zsmtp.Config is Config
    assert zsmtp.TLS is TLS


def test_what_is_not_named_stays_as_it_is(tmp_path: Path) -> None:
    """One field that is given changes no other, from Python and from a file."""
    usual = Config()
    assert replace(usual.timeouts, quit=2.0) == zsmtp.Timeouts(quit=2.0)
    path = tmp_path / "zsmtp.toml"
    path.write_text("[timeouts]\nquit = 2\n")
    assert Config.from_toml(path).timeouts == zsmtp.Timeouts(quit=2.0)
    assert (usual.timeouts, usual.limits, usual.direct) == (zsmtp.Timeouts(), zsmtp.Limits(), zsmtp.Direct())
    assert usual.direct.tls == zsmtp.TLS()
