"""``zsmtp explain`` against a name server and receivers on loopback."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.nameserver import Failure, NameServer, Records, Zone
from tests.support.network import message
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink, refusing_port

from zsmtp.cli.configuration import parse_relay
from zsmtp.cli.explainjson import read_plans
from zsmtp.cli.main import main
from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.answer import Answer, Query
from zsmtp.dns.destination import DestinationRequest
from zsmtp.net.blocking import BlockingDriver, Stop
from zsmtp.observers.codec import load_trace
from zsmtp.signing.keys import generate_key, read_key, write_key
from zsmtp.signing.record import key_record
from zsmtp.signing.signature import Algorithm

ZONE: Zone = {
    "example.com": {"MX": ("10 mx1.example.com.", "20 mx2.example.com.")},
    "mx1.example.com": {"A": ("127.0.0.9",)},
    "mx2.example.com": {"A": ("127.0.0.1",)},
    "both.example": {"A": ("127.0.0.1",), "AAAA": ("::1",)},
    "null.example": {"MX": ("0 .",)},
    "many.example": {"MX": tuple(f"{n} mx{n}.many.example." for n in range(20))},
    **{f"mx{n}.many.example": {"A": (f"127.0.1.{n + 1}",)} for n in range(20)},
    "servfail.example": Failure.SERVFAIL,
    "bogus.example": Failure.BOGUS,
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer(ZONE) as server:
        yield server


@pytest.fixture
def explain(dns: NameServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``zsmtp explain``: status, output, errors."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(["explain", "--resolver", dns.address, *arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


class Nobody:
    """A resolver that must not be asked."""

    def lookup(self, query: Query, deadline: float) -> Answer:
        raise AssertionError(f"{query} was asked")


def test_delivery_executes_the_plan_that_explain_printed(explain: Run, dns: NameServer) -> None:
    """From the JSON on standard output to a message at the receiver, with no name server to ask any more."""
    with Sink() as sink:
        status, out, err = explain("--json", "--port", str(sink.port), "user@example.com")
        assert (status, err) == (0, "")
        (plan,) = read_plans(out)
        assert [one.endpoint.address for one in plan.route.candidates] == ["127.0.0.9", "127.0.0.1"]
        asked = len(dns.queries)

        verdicts: dict[int, Verdict] = {}
        driver = BlockingDriver(Nobody, Stop())
        courier = Courier(SessionSettings(helo_name="client.example"))
        request = DestinationRequest(destination="example.com", shuffle=lambda items: None)
        route = Route(request, given=plan)
        one = message(b"r0@example.com")
        driver.run(courier.deliver(route, Delivery(one, Ledger(1, verdicts.__setitem__))))
        driver.run(courier.close(route, "done"))
        sink.wait_until_finished()
    assert verdicts[0].fate is Disposition.DELIVERED
    assert verdicts[0].peer is not None
    assert verdicts[0].peer.endpoint == plan.route.candidates[1].endpoint
    assert sink.deliveries() == {b"r0@example.com": 1}
    assert len(dns.queries) == asked


def test_what_is_printed(explain: Run, dns: NameServer) -> None:
    status, out, err = explain("--port", "2525", "--helo", "me.example", "example.com")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "example.com: deliverable, 2 addresses of 2 hosts"
    assert "│  MX       10 mx1.example.com, 20 mx2.example.com; insecure, TTL 300 s" in lines
    assert "├─ 10 mx1.example.com" in lines
    assert "   └─ 127.0.0.1 port 2525" in lines
    assert "as me.example" in out
    assert "\x1b" not in out
    assert ("_mta-sts.example.com", "TXT") in dns.queries
    assert "│  MTA-STS  no policy (no record at _mta-sts.example.com)" in lines
    assert "│  note     there is no DANE: the name servers do not validate DNSSEC, or are not trusted" in lines


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ("nx.example", 68, "nx.example: not deliverable: no such domain"),
        ("a@null.example", 68, "does not accept mail (null MX)"),
        ("servfail.example", 75, "deferred"),
        ("a@[127.0.0.1]", 0, "deliverable, 1 address"),
        ("[IPv6:::1]", 0, "deliverable, 1 address"),
        ("a@[127.0.0.1", 68, "not a valid address literal"),
        ("", 68, "names no host"),
        ("b\udcff.example", 68, "not deliverable"),
        ("\x1b[31m@evil\x1b[2J", 68, "not deliverable"),
        ("x" * 5000, 68, "too long"),
    ],
)
def test_the_exit_status_says_whether_it_can_be_delivered_to(explain: Run, asked: str, status: int, words: str) -> None:
    found, out, err = explain(asked)
    assert found == status
    assert words in out
    assert "\x1b" not in out
    assert err == ""


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            "servfail.example",
            "servfail.example MX: no answer without DNSSEC validation either: the servers of the zone fail",
        ),
        ("bogus.example", "bogus.example MX: there is an answer without DNSSEC validation: the zone is bogus"),
        ("nx.example", ""),
    ],
)
def test_a_failure_without_a_reason_is_asked_about_once_more(
    explain: Run, dns: NameServer, asked: str, words: str
) -> None:
    """A name server that validates says no more than SERVFAIL for a zone whose signatures are bad."""
    _, out, err = explain(asked)
    assert (words in " ".join(out.split()), err) == (True, "")
    assert ("DNSSEC  " in out) == bool(words)
    before = len(dns.queries)
    (found,) = json.loads(explain("--json", asked)[1])["explanations"]
    assert found["validation"] == words
    assert dns.queries[before:].count((asked, "MX")) == (2 if words else 1)


def test_what_all_candidates_have_in_common_is_told_once(explain: Run) -> None:
    with refusing_port() as port:
        status, out, _ = explain("--connect", "--port", str(port), "both.example", "-4")
        assert (status, out.splitlines()[0]) == (75, "both.example: deferred, 1 address of 1 host: Connection refused")
        status, out, _ = explain("--connect", "--port", str(port), "many.example")
    assert status == 75
    assert out.splitlines()[0] == "many.example: deferred, 20 addresses of 20 hosts: 20 of 20: Connection refused"
    assert out.count("Connection refused") == 2
    assert out.count("TLS ") == 1


def test_the_reason_is_in_the_json(explain: Run) -> None:
    with refusing_port() as port:
        documents = json.loads(explain("--connect", "--json", "--port", str(port), "many.example", "null.example")[1])
    first, second = documents["explanations"]
    assert first["reason"] == "20 of 20: Connection refused"
    assert "does not accept mail (null MX)" in second["reason"]


def test_of_several_the_worst_counts(explain: Run) -> None:
    status, out, _ = explain("[127.0.0.1]", "servfail.example", "nx.example")
    assert status == 68
    assert len(re.findall(r"^\S.*: (?:deliverable|deferred|not deliverable)", out, re.MULTILINE)) == 3


def test_one_address_family(explain: Run) -> None:
    assert "127.0.0.1 port" not in explain("-6", "--port", "26", "both.example")[1]
    assert "::1 port" not in explain("-4", "--port", "26", "both.example")[1]


def test_without_mx(explain: Run, dns: NameServer) -> None:
    status, out, _ = explain("--no-mx", "--port", "26", "both.example")
    assert status == 0
    assert ("both.example", "MX") not in dns.queries
    assert "MX records are not asked for" in out


def test_connecting(explain: Run) -> None:
    with Sink(Script(banner=Step("220 sink ESMTP"))) as sink:
        status, out, _ = explain("--connect", "--timeout", "60", "--port", str(sink.port), "example.com")
        sink.wait_until_finished()
    assert status == 0
    assert "tried  no connection: Connection refused" in out
    assert "a session can be opened" in out
    assert "greeting  220 sink ESMTP" in out
    assert [verb for one in sink.connections for verb in one.verbs] == ["EHLO", "QUIT"]


def test_without_rcpt_it_is_said_that_nobody_was_asked_for(explain: Run) -> None:
    with Sink(Script()) as sink:
        _, out, _ = explain("--connect", "--port", str(sink.port), "bob@[127.0.0.1]")
        assert "a session can be opened" in out
        assert "in all; MAIL and RCPT were not tried (--rcpt)" in out
        assert sink.connections[0].verbs == ["EHLO", "QUIT"]
    assert re.search(r"RCPT +not tried \(--rcpt\)\n", explain("bob@example.com")[1])
    assert "--rcpt" not in explain("example.com")[1]


@pytest.mark.parametrize(
    ("replies", "status", "headline", "verbs"),
    [
        ({}, 0, "accepted: 250 2.1.5 Recipient ok", ["EHLO", "MAIL", "RCPT", "RSET", "QUIT"]),
        (
            {"RCPT": (Step("451 4.7.1 Greylisted, come again"),)},
            75,
            "deferred: 451 4.7.1 Greylisted, come again",
            ["EHLO", "MAIL", "RCPT", "RSET", "QUIT"],
        ),
        (
            {"RCPT": (Step("550 5.1.1 no such user"),)},
            69,
            "refused: 550 5.1.1 no such user",
            ["EHLO", "MAIL", "RCPT", "RSET", "QUIT"],
        ),
        (
            {"MAIL": (Step("530 5.7.0 Must issue a STARTTLS command first"),)},
            75,
            "deferred: 530 5.7.0 Must issue",
            ["EHLO", "MAIL", "RSET", "QUIT"],
        ),
        ({"RCPT": (Step(None, Then.CLOSE),)}, 75, "deferred: ", ["EHLO", "MAIL", "RCPT"]),
    ],
)
def test_whether_a_recipient_is_taken(
    explain: Run, replies: dict[str, tuple[Step, ...]], status: int, headline: str, verbs: list[str]
) -> None:
    with Sink(Script(caps=("SIZE 1000", "PIPELINING", "ENHANCEDSTATUSCODES"), replies=replies)) as sink:
        found, out, err = explain("--rcpt", "bob@[127.0.0.1]", "--port", str(sink.port))
        _, document, _ = explain("--rcpt", "bob@[127.0.0.1]", "--port", str(sink.port), "--json")
        assert (found, err) == (status, "")
        assert out.startswith(f"bob@[127.0.0.1]: {headline}")
        assert re.search(r"RCPT +bob@\[127\.0\.0\.1\]: ", out)
        assert re.search(r"MAIL FROM:<> -> \w", out)
        assert sink.connections[0].verbs == verbs
        assert not any(one.octets for one in sink.transactions)
    (explanation,) = json.loads(document)["explanations"]
    answer = explanation["candidates"][0]["probe"]["recipient"]
    assert (explanation["status"], answer["accepted"]) == (status, status == 0)
    assert answer["commands"][0]["command"] == "MAIL FROM:<>"
    assert (answer["verdict"] is None) == (status == 0)


def test_the_sender_and_the_login_are_those_of_a_delivery(explain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSMTP_PASSWORD", "geheim")
    script = Script(caps=("AUTH PLAIN", "SMTPUTF8"), replies={"AUTH": (Step("235 2.7.0 welcome"),)})
    with Sink(script) as sink:
        relay = ("--relay", f"smtp://me@127.0.0.1:{sink.port}")
        status, out, _ = explain(*relay, "--from", "ann@example.org", "--rcpt", "b\u00f6b@example.com")
        explain(*relay, "--connect")
    assert (status, "geheim" in out) == (0, False)
    assert sink.connections[0].verbs == ["EHLO", "AUTH", "MAIL", "RCPT", "RSET", "QUIT"]
    assert sink.connections[0].lines[2:4] == [
        b"MAIL FROM:<ann@example.org> SMTPUTF8",
        "RCPT TO:<b\u00f6b@example.com>".encode(),
    ]
    assert sink.connections[1].verbs == ["EHLO", "QUIT"], "without a recipient nobody logs in"


def test_the_route_of_a_sender_is_told_with_its_reason(explain: Run, tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text(
        'relay = "smtp://127.0.0.1:1"\n[sender_routes]\n"shop.example" = "smtp://127.0.0.1:2"\n'
        '"ann@shop.example" = "smtp://127.0.0.1:3"\n[routes]\n"inside.example" = "smtp://127.0.0.1:4"\n'
    )
    for what, sender, port, reason in (
        ("example.com", (), 1, ""),
        ("example.com", ("--from", "<>"), 1, ""),
        ("example.com", ("--from", "bob@shop.example"), 2, ", by the route of the sender's domain"),
        ("example.com", ("--from", "ann@shop.example"), 3, ", by the route of the sender's address"),
        ("inside.example", ("--from", "ann@shop.example"), 4, ", by the route of the recipient's domain"),
    ):
        _, out, _ = explain("--config", str(tmp_path / "client.toml"), what, *sender)
        assert re.search(rf"(?m)relay +127\.0\.0\.1:{port}{reason}$", out), out
    _, out, _ = explain("--config", str(tmp_path / "client.toml"), "example.com", "--from", "b@shop.example", "--json")
    (explanation,) = json.loads(out)["explanations"]
    assert explanation["route"] == "route of the sender's domain"
    status, _, said = explain("--agent", "smtp", "example.com", "--from", "b@shop.example")
    assert status == 64
    assert "--from goes with --rcpt: the agent has no routes of senders" in said


OWN: Zone = {
    "own.example": {"MX": ("10 mx.own.example.",), "TXT": ('"v=spf1 ip4:9.9.9.1 -all"',)},
    "_dmarc.own.example": {"TXT": ('"v=DMARC1; p=reject"',)},
    "slow.example": Failure.SERVFAIL,
    "_dmarc.slow.example": Failure.SERVFAIL,
}


@pytest.fixture
def signing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with a key for own.example, on a machine whose address is 9.9.9.1."""
    monkeypatch.setattr("zsmtp.cli.explain.source_address", lambda endpoint, identity: "9.9.9.1")
    write_key(str(tmp_path / "key.pem"), generate_key(Algorithm.ED25519_SHA256))
    (tmp_path / "client.toml").write_text(
        f'helo_name = "out.own.example"\n[[dkim]]\ndomain = "own.example"\nselector = "a"\n'
        f'key_file = "{tmp_path}/key.pem"\n'
    )
    return tmp_path


@contextmanager
def with_own(key_file: Path | None = None) -> Iterator[tuple[str, ...]]:
    """The options for a name server that knows the sender's domain, too, and its key if it is given."""
    records: dict[str, Records | Failure] = {**ZONE, **OWN}
    if key_file is not None:
        key = read_key(str(key_file), print)
        records["a._domainkey.own.example"] = {"TXT": (f'"{key_record(key.algorithm, key.public_key)}"',)}
    with NameServer(records) as server:
        yield "--resolver", server.address


def sender_lines(out: str) -> list[str]:
    """The branch of the sender, its lines put together again."""
    branch = out.partition("mail of ")[2]
    told = " ".join(re.sub("[│├└─]", " ", line) for line in branch.splitlines())
    return [" ".join(one.split()) for one in re.split(r"(?= (?:SPF|DKIM|DMARC|alignment|address) [a-z]+: )", told)]


def test_the_sender_s_side(explain: Run, signing: Path) -> None:
    asked = ("example.com", "--port", "2525", "--config", str(signing / "client.toml"), "--from", "ann@own.example")
    key = read_key(str(signing / "key.pem"), print)
    with with_own(signing / "key.pem") as resolver:
        status, out, err = explain(*asked, *resolver)
        assert (status, err) == (0, "")
        assert sender_lines(out) == [
            "ann@own.example",
            "SPF good: 9.9.9.1 may send: ip4:9.9.9.1 of own.example matches 9.9.9.1 (0 of 10 lookups) "
            "looked up TXT own.example: v=spf1 ip4:9.9.9.1 -all",
            "DKIM good: the key at a._domainkey.own.example is published: ed25519-sha256, 256 bits "
            f"looked up TXT a._domainkey.own.example: {key_record(key.algorithm, key.public_key)}",
            "DMARC good: the policy of own.example asks to refuse mail of own.example that does not pass "
            "looked up TXT _dmarc.own.example: v=DMARC1; p=reject",
            "alignment good: mail with own.example in From passes by SPF and DKIM",
        ]
        (found,) = json.loads(explain(*asked, *resolver, "--json")[1])["explanations"]
    assert (found["sender"]["address"], found["sender"]["addresses"]) == ("ann@own.example", ["9.9.9.1"])
    assert found["sender"]["signatures"] == [
        {"domain": "own.example", "selector": "a", "algorithm": "ed25519-sha256", "bits": 256}
    ]
    assert [one["topic"] for one in found["sender"]["findings"]] == ["SPF", "DKIM", "DMARC", "alignment"]


def test_nothing_of_the_sender_s_side_makes_an_explanation_fail(explain: Run, signing: Path) -> None:
    config = ("example.com", "--port", "2525", "--config", str(signing / "client.toml"), "--from")
    with with_own() as resolver:
        status, out, _ = explain(*config, "ann@own.example", *resolver)
        assert (status, out.splitlines()[0]) == (0, "example.com: deliverable, 2 addresses of 2 hosts")
        assert any(one.startswith("DKIM refused: no key at a._domainkey.own.example") for one in sender_lines(out))
        assert "zsmtp check ann@own.example shows which receivers require it" in out

        status, out, _ = explain(*config, "ann@slow.example", *resolver)
        assert status == 0
        assert any(one.startswith("SPF unknown: the TXT records of slow.example") for one in sender_lines(out))
        assert any(one.startswith("DMARC unknown: ") for one in sender_lines(out))
        assert any("there is no key for slow.example" in one for one in sender_lines(out))

        (signing / "key.pem").unlink()
        status, out, _ = explain(*config, "ann@own.example", *resolver)
        assert status == 0
        assert any("DKIM unknown: it is not known what signs: dkim[0].key_file: " in one for one in sender_lines(out))
        for sender in ("<>", "ann@[127.0.0.1]"):
            assert "mail of" not in explain(*config, sender, *resolver)[1]
        status, out, _ = explain("nx.example", *config[1:], "ann@own.example", *resolver)
        assert (status, "mail of ann@own.example" in out) == (68, True)


def test_by_a_relay_receivers_see_another_address(explain: Run, signing: Path) -> None:
    asked = ("--relay", "127.0.0.1", "--config", str(signing / "client.toml"), "--from", "ann@own.example")
    with with_own(signing / "key.pem") as resolver:
        _, out, _ = explain(*asked, *resolver)
    found = sender_lines(out)
    assert found[1].startswith("address unknown: receivers see the address of the relay 127.0.0.1:25, which is not")
    assert found[-1] == "alignment good: mail with own.example in From passes by DKIM"


def test_the_sender_s_side_with_a_return_path(explain: Run, signing: Path) -> None:
    """In the configuration of the service: SPF is that of the return path."""
    (signing / "service.toml").write_text(
        f'[queue.bounces]\nreturn_path = "b+{{id}}@back.own.example"\nkey_file = "{signing}/keys"\n'
        f'[[delivery.dkim]]\ndomain = "own.example"\nselector = "a"\nkey_file = "{signing}/key.pem"\n'
    )
    asked = ("example.com", "--port", "2525", "--config", str(signing / "service.toml"), "--from", "ann@own.example")
    with with_own(signing / "key.pem") as resolver:
        status, out, err = explain(*asked, *resolver)
    assert (status, err) == (0, "")
    found = sender_lines(out)
    assert found[0].startswith("ann@own.example return path b+000")
    assert found[1].startswith("SPF refused: none: back.own.example has no SPF record")
    assert found[-1].startswith("alignment good: mail with own.example in From passes by DKIM")


def test_the_sender_s_side_can_be_left_out(explain: Run, dns: NameServer, signing: Path) -> None:
    asked = ("example.com", "--port", "2525", "--config", str(signing / "client.toml"), "--from", "ann@own.example")
    status, out, _ = explain(*asked, "--no-sender-check")
    assert (status, "mail of" in out) == (0, False)
    assert ("own.example", "TXT") not in dns.queries
    (found,) = json.loads(explain(*asked, "--no-sender-check", "--json")[1])["explanations"]
    assert found["sender"] is None


def test_a_recipient_that_cannot_be_named_there_is_refused_here(explain: Run) -> None:
    with Sink(Script()) as sink:
        status, out, _ = explain("--rcpt", "b\u00f6b@[127.0.0.1]", "--port", str(sink.port))
        assert sink.connections[0].verbs == ["EHLO", "QUIT"]
    assert status == 69
    assert "SMTPUTF8" in out.splitlines()[0]


def test_the_first_candidate_with_a_session_decides(explain: Run) -> None:
    """The first exchanger takes no connection: the answer of the second one counts."""
    with Sink(Script(replies={"RCPT": (Step("550 5.1.1 no such user"),)})) as sink:
        status, out, _ = explain("--rcpt", "bob@example.com", "--rcpt", "carol@example.com", "--port", str(sink.port))
    assert status == 69
    assert [line for line in out.splitlines() if line[:1].isalpha()] == [
        "bob@example.com: refused: 550 5.1.1 no such user",
        "carol@example.com: refused: 550 5.1.1 no such user",
    ]


def test_connecting_to_nobody(explain: Run) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        status, out, _ = explain("--connect", f"[127.0.0.1]:{port}")
    assert status == 75
    assert "Connection refused" in out
    assert out.startswith(f"[127.0.0.1]:{port}: deferred, 1 address: Connection refused\n")


def test_a_peer_that_says_nothing_is_given_up(explain: Run) -> None:
    with Sink(Script(banner=Step(None, Then.HANG))) as sink:
        status, out, _ = explain("--connect", "--timeout", "0.3", f"[127.0.0.1]:{sink.port}")
    assert status == 75
    assert re.search(r"tried  no session: no reply within .* greeting", out)


def test_an_interrupt_does_not_wait_for_a_peer(dns: NameServer) -> None:
    with Sink(Script(banner=Step(None, Then.HANG))) as sink:
        what = ["--connect", "--resolver", dns.address, f"[127.0.0.1]:{sink.port}"]
        command = [sys.executable, "-m", "zsmtp.cli.main", "explain", *what]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            sink.wait_for(lambda sink: len(sink.connections) == 1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_relay_and_lmtp(explain: Run, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    with Sink(Script(lmtp=True), unix=path) as sink:
        status, out, _ = explain("--connect", "--lmtp", "--relay", str(path), "anybody@example.com")
        sink.wait_until_finished()
    assert status == 0
    assert f"UNIX:{path}" in out
    assert sink.connections[0].verbs == ["LHLO", "QUIT"]


def test_a_relay_is_explained_by_itself(explain: Run) -> None:
    with Sink() as sink:
        status, out, err = explain("--connect", "--relay", f"127.0.0.1:{sink.port}")
        sink.wait_until_finished()
    assert (status, err) == (0, "")
    assert out.startswith(f"127.0.0.1:{sink.port}: deliverable, 1 address\n")
    assert sink.connections[0].verbs == ["EHLO", "QUIT"]


def test_port_465_is_tls_from_the_first_octet_unless_a_scheme_says_otherwise() -> None:
    assert parse_relay("mail.example.org:465") == parse_relay("smtps://mail.example.org:465")
    assert not parse_relay("smtp://mail.example.org:465").implicit
    assert not parse_relay("mail.example.org:587").implicit


def test_of_a_relay_that_does_not_exist_nothing_is_refused(explain: Run) -> None:
    status, out, _ = explain("--relay", "nosuch.example", "a@example.com")
    assert status == 75
    assert "deferred: the relay cannot be used: no such domain: nosuch.example (4.3.5)" in out


def test_json_goes_with_connect(explain: Run) -> None:
    with Sink() as sink:
        _, out, _ = explain("--json", "--connect", f"[127.0.0.1]:{sink.port}")
        sink.wait_until_finished()
    probe = json.loads(out)["explanations"][0]["candidates"][0]["probe"]
    assert probe["opened"] is True


def test_colours_when_asked_for(explain: Run) -> None:
    assert "\x1b[32mdeliverable\x1b[0m" in explain("--color", "always", "[127.0.0.1]")[1]


def test_what_the_agent_would_do(
    dns: NameServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its flags and its ZENV file, not by the client's options."""
    (tmp_path / "zenv").write_text(f"RESOLVER={dns.address}\nTLS_MTA_STS=on\nPOSTOFFICE={tmp_path}\n")
    (tmp_path / "tls.conf").write_text("tls-level encrypt\n")
    monkeypatch.setenv("ZCONFIG", str(tmp_path / "zenv"))
    monkeypatch.setenv("COLUMNS", "120")
    flags = f"/usr/local/bin/smtp -s -p 2525 -h me.example -T conn=17s -S {tmp_path}/tls.conf"
    assert main(["explain", f"--agent={flags}", "user@example.com"]) == 0
    out = capsys.readouterr().out
    assert "└─ 127.0.0.1 port 2525" in out
    assert "TLS      encrypt: required, with any certificate; configured level encrypt" in out
    assert "MTA-STS  no policy" in out
    assert "connect 17 s" in out
    assert " as me.example; " in out
    assert ("example.com", "MX") in dns.queries
    assert main(["explain", f"--agent={flags} -F '[127.0.0.1]:24'", "user@example.com"]) == 0
    assert "relay   [127.0.0.1]:24" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--agent=-q"], 64, "--agent: .*-q.*"),
        (["--agent='"], 64, "--agent: No closing quotation"),
        (["--agent=-S /nonexistent"], 66, "/nonexistent: No such file or directory"),
        (["--agent=-A /nonexistent"], 66, "/nonexistent: No such file or directory"),
        (["--agent=-x", "-4"], 64, "-4 or -6 does not go with --agent"),
        (["--agent=-x", "--relay", "h"], 64, "--relay does not go with --agent"),
    ],
)
def test_flags_of_the_agent_that_cannot_be(
    arguments: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments, "example.com"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(f"zsmtp explain: {line}\n", captured.err), captured.err


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ([], 64, "a DOMAIN or ADDRESS is required, or --rcpt, --relay or --replay TRACE; try zsmtp explain --help"),
        (["--nonsense", "x"], 64, "unrecognized arguments: --nonsense; try zsmtp explain --help"),
        (["--port", "0", "x"], 64, "argument --port: not a port: 0; try zsmtp explain --help"),
        (["--timeout", "never", "x"], 64, "argument --timeout: not a time in seconds: never; try zsmtp explain --help"),
        (["-4", "-6", "x"], 64, "argument -6: not allowed with argument -4; try zsmtp explain --help"),
        (["--relay", "a:b", "x"], 64, "relay: not a port: b"),
        (["--relay", "::1", "x"], 64, "relay: an IPv6 address belongs in brackets: ::1"),
        (["--relay", "unix:relative", "x"], 64, "relay: not the path of a socket: relative"),
        (["--relay", "h", "--user", "u", "--password-env", "E", "--password-file", "f", "x"], 64, None),
        (["--user", "me", "x"], 64, "--user goes with --relay"),
        (["--lmtp", "x"], 64, "--lmtp goes with --relay"),
        (
            ["--no-sender-check", "x"],
            64,
            "--no-sender-check goes with --from, and not with --agent, which shows nothing about senders; try zsmtp "
            "explain --help",
        ),
        (["--resolver", "what?", "x"], 64, None),
        (["--replay", "/nonexistent"], 66, "/nonexistent: No such file or directory"),
        (["--replay", "/etc/passwd"], 65, "/etc/passwd: not JSON: line 1, column 1: Expecting value"),
        (["--config", "/nonexistent", "x"], 66, "/nonexistent: No such file or directory"),
    ],
)
def test_wrong_usage_is_one_line(explain: Run, arguments: list[str], status: int, line: str | None) -> None:
    found, out, err = explain(*arguments)
    assert (found, out) == (status, "")
    assert err.count("\n") == 1
    assert line is None or err == f"zsmtp explain: {line}\n"


def test_the_address_to_connect_from(explain: Run, tmp_path: Path) -> None:
    config = tmp_path / "zsmtp.toml"
    config.write_text("local_address = 'both.example'\n")  # a name: its addresses are looked up
    status, out, _ = explain("--config", str(config), "--port", "26", "both.example", "[127.0.0.2]")
    assert status == 0
    assert "from  127.0.0.1 as " in out
    config.write_text("local_address = '[203.0.113.77]'\n")
    status, out, _ = explain("--config", str(config), "--connect", "[127.0.0.1]:26")
    assert status == 75
    assert "cannot bind to the local address 203.0.113.77" in out


def test_a_bad_configuration_says_where(explain: Run, tmp_path: Path) -> None:
    path = tmp_path / "zsmtp.toml"
    path.write_text("helo_nane = 'x'\n")
    status, _, err = explain("--config", str(path), "example.com")
    assert status == 78
    assert re.fullmatch(r"zsmtp explain: .*zsmtp\.toml: helo_nane: .*helo_name.*\n", err)


def test_a_trace_of_the_tries(explain: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "try.json"
    with Sink() as sink:
        arguments = ("--connect", "--timeout", "60", "--port", str(sink.port), "--trace", str(path))
        status, _, err = explain(*arguments, "user@example.com")
        assert (status, err) == (0, "")
        sink.wait_until_finished()
    trace = load_trace(path)
    assert (trace.destination, trace.fates.recipients) == ("example.com", 0)
    assert [connection.host for connection in trace.connections] == ["mx2.example.com"]
    assert trace.plan is not None
    assert main(["trace", "show", str(path), "--width", "100"]) == 0
    drawn = capsys.readouterr().out
    assert "a try of example.com" in drawn
    assert "no mail was sent: only tried" in drawn
    assert "EHLO" in drawn
    assert main(["trace", "show", str(path), "--html"]) == 0
    assert "<h1>A try of example.com</h1>" in capsys.readouterr().out
    assert main(["explain", "--replay", str(path)]) == 0
    assert "candidates were tried, no mail was sent" in capsys.readouterr().out


def test_a_trace_of_nothing_is_refused(explain: Run, tmp_path: Path) -> None:
    status, out, err = explain("--trace", str(tmp_path / "x"), "example.com")
    assert (status, out) == (64, "")
    assert "--trace needs --connect" in err
