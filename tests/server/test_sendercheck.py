"""What a service says of its own mail: warnings for what is refused, one line where nobody answers, and no more."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.loop import Loop, pass_time, until
from tests.support.nameserver import Failure, NameServer, Records
from tests.support.patience import wait_until
from tests.support.serveprocess import ServeProcess

from zsmtp.server.sendercheck import DOMAIN_TIME, SenderCheck, checked_senders
from zsmtp.server.serviceconfig import ServiceConfig, service_config
from zsmtp.signing.keys import generate_key, read_key, write_key
from zsmtp.signing.record import key_record
from zsmtp.signing.signature import Algorithm

Names = Mapping[str, "Records | Failure"]

ALL: Names = {
    "example.org": {"MX": ("10 mx.example.org.",), "TXT": ('"v=spf1 ip4:9.9.9.1 -all"',)},
    "mx.example.org": {"A": ("192.0.2.25",)},
    "_dmarc.example.org": {"TXT": ('"v=DMARC1; p=reject"',)},
    "mail.example.org": {"A": ("9.9.9.1",)},
    "1.9.9.9.in-addr.arpa": {"PTR": ("mail.example.org.",)},
}


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = str(tmp_path / "a.pem")
    write_key(path, generate_key(Algorithm.ED25519_SHA256))
    return path


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose address receivers see."""
    monkeypatch.setattr("zsmtp.client.ownsender.source_address", lambda endpoint, identity: "9.9.9.1")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """What was logged since the last time: levels and texts."""
    caplog.set_level(logging.INFO, "zsmtp.service")

    def taken() -> list[tuple[str, str]]:
        found = [(one.levelname, one.getMessage()) for one in caplog.records]
        caplog.clear()
        return found

    return taken


def record(key_file: str) -> str:
    key = read_key(key_file, print)
    return key_record(key.algorithm, key.public_key)


def with_key(key_file: str, **more: Records | Failure) -> Names:
    return {**ALL, "a._domainkey.example.org": {"TXT": (f'"{record(key_file)}"',)}, **more}


def configured(dns: NameServer | None, key_file: str, delivery: str | None = None, **more: Any) -> ServiceConfig:
    keys = [{"domain": "example.org", "selector": "a", "key_file": key_file}] if key_file else []
    direct = {"nameserver": dns.address} if dns is not None else {}
    made = {"helo_name": "mail.example.org", "dkim": keys, "direct": direct}
    return service_config({"delivery": made | ({"relay": delivery} if delivery else {}), **more})


def checked(*configs: ServiceConfig) -> None:
    """Have the senders of each looked at, one after the other, to the end."""

    async def main() -> None:
        check = SenderCheck()
        for config in configs:
            check.start(config)
            if check._task is not None:
                await check._task
        await check.aclose()

    run(main)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine; no task of it is left."""

    async def clean() -> None:
        await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(clean())


@pytest.mark.usefixtures("public")
def test_where_all_is_well_nothing_is_said(key_file: str, said: Callable[[], list[tuple[str, str]]]) -> None:
    with NameServer(with_key(key_file)) as dns:
        checked(configured(dns, key_file))
        assert ("a._domainkey.example.org", "TXT") in dns.queries
        assert all(not name.startswith(("_mta-sts", "default._bimi")) for name, _ in dns.queries)
    assert said() == []


@pytest.mark.usefixtures("public")
def test_each_fault_is_a_warning_with_what_to_publish(key_file: str, said: Callable[[], list[tuple[str, str]]]) -> None:
    names: Names = {**ALL, "example.org": {"MX": ("10 mx.example.org.",), "TXT": ('"v=spf1 ip4:192.0.2.1 -all"',)}}
    with NameServer(names) as dns:
        checked(configured(dns, key_file))
    lines = said()
    assert {level for level, _ in lines} == {"WARNING"}
    spf, dkim, alignment = [text for _, text in lines]
    assert spf == (
        "mail from example.org will be refused by Gmail, Yahoo, Outlook.com (bulk): SPF: fail: -all of example.org "
        'matches 9.9.9.1; publish: example.org. IN TXT "v=spf1 ip4:9.9.9.1 ip4:192.0.2.1 -all"'
    )
    assert dkim == (
        "mail from example.org will be refused by Gmail, Yahoo, Outlook.com (bulk): DKIM: no key at "
        f'a._domainkey.example.org: no such domain; publish: a._domainkey.example.org. IN TXT "{record(key_file)}"'
    )
    assert alignment.startswith("mail from example.org will be refused by all that know DMARC: alignment: nothing that")


def test_a_relay_leaves_the_keys_to_be_looked_at(key_file: str, said: Callable[[], list[tuple[str, str]]]) -> None:
    """SPF is judged by the address of the relay, which may well be listed."""
    relay = "smtp://relay.example.net"
    with NameServer({}) as dns:
        config = configured(dns, key_file, relay, listen={"a": {"default_domain": "other.example"}})
        assert [(one.domain, one.relayed) for one in checked_senders(config, 0.0)] == [("example.org", True)]
        checked(config)
    ((level, text),) = said()
    assert (level, "DKIM: no key at a._domainkey.example.org" in text) == ("WARNING", True)


@pytest.mark.usefixtures("public")
def test_a_reload_that_changes_keys_is_looked_at_and_nothing_is_said_twice(
    key_file: str, tmp_path: Path, said: Callable[[], list[tuple[str, str]]]
) -> None:
    with NameServer({**ALL, "_dmarc.example.org": Failure.NXDOMAIN}) as dns:
        first = configured(dns, key_file)

        async def main() -> None:
            check = SenderCheck()

            async def again(config: ServiceConfig) -> tuple[int, list[str]]:
                before = len(dns.queries)
                check.start(config)
                assert check._task is not None
                await check._task
                return len(dns.queries) - before, [text for level, text in said() if level == "WARNING"]

            asked, lines = await again(first)
            assert asked
            (line,) = lines
            assert await again(first) == (0, []), "the same keys are not looked at again"
            Path(key_file).unlink()
            write_key(key_file, generate_key(Algorithm.ED25519_SHA256))
            asked, (other,) = await again(first)
            assert asked
            assert other != line, "the same file, another key"
            with_other = configured(dns, key_file, listen={"a": {"default_domain": "example.org"}})
            assert await again(with_other) == (0, []), "a domain is looked at once"
            with_other = configured(dns, key_file, listen={"a": {"default_domain": "other.example"}})
            asked, lines = await again(with_other)
            assert asked
            assert lines
            assert all(text.startswith("mail from other.example") for text in lines), "the rest was said before"
            asked, lines = await again(configured(dns, "", check_senders=False))
            assert (asked, lines) == (0, [])
            await check.aclose()

        run(main)


@pytest.mark.usefixtures("public")
def test_the_return_path_is_looked_at(key_file: str, said: Callable[[], list[tuple[str, str]]]) -> None:
    bounces = {"return_path": "b+{id}@back.example.org", "key_file": key_file, "senders": ["news@Example.org", "*@x"]}
    with NameServer(with_key(key_file)) as dns:
        config = configured(dns, key_file, queue={"bounces": bounces})
        ways = [(one.address, one.reverse_path[-16:]) for one in checked_senders(config, 0.0)]
        assert {one.domain for one in checked_senders(config, 0.0)} == {"example.org"}
        assert ways == [("postmaster@example.org", "ster@example.org"), ("news@Example.org", "back.example.org")]
        checked(config)
    texts = [text for _, text in said()]
    assert texts
    assert all("back.example.org" in text and ("MX: " in text or "SPF: " in text) for text in texts)


def test_only_what_is_configured_is_looked_at(key_file: str) -> None:
    def domains(config: ServiceConfig) -> list[str]:
        return [one.domain for one in checked_senders(config, 0.0)]

    assert domains(configured(None, "")) == [], "without a domain of its own a service asks nobody"
    names = ("b\u00fccher.example", "example.org", "localhost", "no domain")
    listen = {str(number): {"default_domain": name} for number, name in enumerate(names)}
    assert domains(configured(None, key_file, listen=listen)) == ["example.org", "xn--bcher-kva.example"]
    assert domains(configured(None, key_file, listen=listen, check_senders=False)) == []
    assert domains(configured(None, key_file, queue={"deliver": "none"})) == []


def test_where_no_name_server_answers_one_quiet_line_says_so(
    key_file: str, said: Callable[[], list[tuple[str, str]]]
) -> None:
    listen = {str(n): {"default_domain": f"d{n}.example"} for n in range(9)}
    names = {f"d{n}.example": Failure.SERVFAIL for n in range(9)} | {"example.org": Failure.SERVFAIL}
    with NameServer(names | dict.fromkeys(_asked_of(names), Failure.SERVFAIL)) as dns:
        checked(configured(dns, key_file, listen=listen))
        assert not any(name.startswith("d") for name, _ in dns.queries), "it is not tried for each domain"
    ((level, text),) = said()
    assert level == "INFO"
    assert text.startswith(
        "it is not known how receivers judge mail from example.org, d0.example, d1.example and 7 more"
    )


def _asked_of(names: Names) -> list[str]:
    return [
        "_dmarc.example.org",
        "_dmarc.org",
        "a._domainkey.example.org",
        "mail.example.org",
        *(f"_dmarc.{name}" for name in names),
    ]


def test_what_fails_is_no_failure_of_the_service(
    key_file: str, said: Callable[[], list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("of the check")

    monkeypatch.setattr("zsmtp.server.sendercheck.check_acceptance", broken)
    checked(configured(None, key_file))
    ((level, text),) = said()
    assert (level, "ZeroDivisionError" in text) == ("INFO", True)
    Path(key_file).unlink()
    checked(configured(None, key_file))
    ((level, text),) = said()
    assert (level, text.startswith("senders are not checked: dkim[0].key_file:")) == ("INFO", True)


def test_it_has_a_deadline_and_ends_with_the_service(key_file: str, said: Callable[[], list[tuple[str, str]]]) -> None:
    silent: Names = dict.fromkeys(["example.org", "mail.example.org", "_dmarc.example.org"], Failure.SILENCE)
    with NameServer(silent) as dns:

        async def late() -> None:
            check = SenderCheck()
            check.start(configured(dns, key_file))
            await until(wait_until, lambda: dns.queries)
            assert check._task is not None
            pass_time(DOMAIN_TIME)
            await check._task

        run(late)
        ((level, _),) = said()
        assert level == "INFO"
        dns.queries.clear()

        async def ended() -> None:
            check = SenderCheck()
            check.start(configured(dns, key_file))
            await until(wait_until, lambda: dns.queries)
            check.start(configured(dns, key_file, listen={"a": {"default_domain": "other.example"}}))
            await asyncio.sleep(0)
            await check.aclose()
            await check.aclose()

        run(ended)
    assert said() == []


def test_a_service_warns_when_it_has_started_and_after_a_reload(tmp_path: Path, key_file: str) -> None:
    with NameServer(ALL) as dns:
        key = f'[[delivery.dkim]]\ndomain = "example.org"\nselector = "a"\nkey_file = "{key_file}"\n'
        direct = f'[delivery.direct]\nnameserver = "{dns.address}"\n'
        warned = "mail from example.org will be refused by Gmail, Yahoo, Outlook.com (bulk): DKIM: no key at"
        with ServeProcess(tmp_path, direct + key) as serve:
            serve.wait_for(f"{warned} a._domainkey")
            assert serve.logged.index("is served") < serve.logged.index(warned)
            serve.write(direct + key.replace('"a"', '"b"'))
            serve.process.send_signal(signal.SIGHUP)
            serve.wait_for(f"{warned} b._domainkey")
            serve.write(direct + key, "check_senders = false")
            serve.process.send_signal(signal.SIGHUP)
            serve.wait_for("info reloaded", 2)
            assert serve.end() == 0
        assert serve.logged.count("will be refused") == 2
