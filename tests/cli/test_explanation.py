"""Explanations over a scripted network: what they find, how they look, and that delivery does what they print."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from hashlib import sha256

import pytest
from tests.support.network import message, world
from tests.support.security import Authority, asking
from tests.tls.certificates import NOW

from zsmtp.cli.explainjson import explain_document, read_plans
from zsmtp.cli.explanation import Explanation, destination_of, explain
from zsmtp.cli.picture import picture, shown_time
from zsmtp.cli.probe import ProbeRecorder, probe_candidate
from zsmtp.cli.sysexits import Exit
from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.candidates import Endpoint
from zsmtp.dns.destination import DestinationRequest
from zsmtp.errors import ConfigError, ConnectError
from zsmtp.net.script import Reaction, Script
from zsmtp.net.scripted import ScriptedNetwork, Unreachable
from zsmtp.text.look import Look
from zsmtp.text.tree import draw
from zsmtp.tls.certificate import read_certificate
from zsmtp.tls.chain import TrustAnchors
from zsmtp.tls.policy import Level, STSUse, TLSPolicy

DNS = """
example.org SECURE
example.org MX 10 mx1.example.org
example.org MX 10 gone.example.org
example.org MX 20 mx2.example.net
mx1.example.org A 192.0.2.1
mx1.example.org AAAA 2001:db8::1
mx2.example.net A 192.0.2.2
null.example MX 0 .
slow.example FAIL TIMEOUT
client.example A 203.0.113.7
7.113.0.203.in-addr.arpa PTR client.example
_mta-sts.example.net TXT "v=STSv1; id=1"
mta-sts.example.net A 192.0.2.99
example.net MX 5 mx2.example.net
example.net MX 6 other.example
other.example A 192.0.2.3
"""
POLICY = b"version: STSv1\nmode: enforce\nmx: *.example.net\nmax_age: 86400\n"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


def source_of(endpoint: Endpoint) -> str:
    if ":" in endpoint.address:
        raise ConnectError(f"no way to {endpoint.address}: Network is unreachable")
    return "203.0.113.7" if endpoint.port else ""


def tlsa_of(authority: Authority, *names: str) -> tuple[str, Script]:
    """The record ``3 1 1`` of a fresh certificate for these names, and a server that has it."""
    facts = authority.facts(*names)
    return f"3 1 1 {sha256(read_certificate(facts.chain[0]).public_key).hexdigest()}", Script(
        keywords=("PIPELINING", "STARTTLS"), tls=facts
    )


def network(authority: Authority, dns: str = DNS, **hosts: Script | Unreachable) -> ScriptedNetwork:
    places = {"mx1": "192.0.2.1", "mx2": "192.0.2.2", "other": "192.0.2.3", "mx1v6": "2001:db8::1"}
    return ScriptedNetwork(
        {places[name]: [host] for name, host in hosts.items()},
        dns=dns,
        now=NOW,
        anchors=lambda: TrustAnchors(authority.anchors),
        policies={"mta-sts.example.net": POLICY},
    )


ASKING = asking(TLSPolicy(level=Level.MAY, dane=True), mta_sts=STSUse.ON)


def explained(
    there: ScriptedNetwork, asked: str, settings: SessionSettings = ASKING, *, connect: bool = False
) -> Explanation:
    request = DestinationRequest(destination=destination_of(asked), shuffle=lambda items: None, allow_unix=True)
    found = there.run(explain(asked, request, settings, source_of))
    if not connect:
        return found
    probes = {}
    for candidate in found.plan.route.candidates:
        recorder = ProbeRecorder(lambda: there.now)
        there._observe = recorder
        probes[candidate.endpoint] = there.run(probe_candidate(found.plan, candidate, settings, recorder))
    return replace(found, probes=probes)


def drawn(explanation: Explanation, width: int = 100) -> str:
    return "\n".join(draw(picture(explanation), Look(width)))


def test_a_destination_with_everything(authority: Authority) -> None:
    record, server = tlsa_of(authority, "mx1.example.org")
    dns = f"{DNS}\n_25._tcp.mx1.example.org TLSA {record}\n_25._tcp.mx1.example.org TLSA 1 1 1 {'00' * 32}"
    found = explained(network(authority, dns, mx1=server), "user@example.org")
    assert found.status is Exit.OK
    assert drawn(found).splitlines() == [
        "user@example.org: deliverable, 3 addresses of 2 hosts",
        "│  MX       10 mx1.example.org, 10 gone.example.org, 20 mx2.example.net; secure, TTL 300 s",
        "│  MTA-STS  no policy (no record at _mta-sts.example.org)",
        "│  policy   level may, TLSA records are looked up",
        "│  note     gone.example.org is skipped: no such domain: gone.example.org",
        "│  limits   100 hosts, 20 addresses; connect 30 s, commands 300 s, end of data 600 s",
        "│  RCPT     not tried (--rcpt)",
        "├─ 10 mx1.example.org",
        "│  │  A     192.0.2.1; secure, TTL 300 s",
        "│  │  AAAA  2001:db8::1; secure, TTL 300 s",
        "│  │  TLSA  2 records at _25._tcp.mx1.example.org; secure, TTL 300 s",
        f"│  │        {record[:22]}... usable",
        "│  │        1 1 1 0000000000000000... not usable: usage 1 is not for SMTP",
        "│  ├─ 192.0.2.1 port 25",
        "│  │     TLS   dane: required, with a certificate that TLSA records name; TLSA records of",
        "│  │             mx1.example.org",
        "│  │     from  203.0.113.7 as client.example; reverse and forward names match",
        "│  └─ 2001:db8::1 port 25",
        "│        TLS   dane: required, with a certificate that TLSA records name; TLSA records of",
        "│                mx1.example.org",
        "│        from  no way to 2001:db8::1: Network is unreachable",
        "└─ 20 mx2.example.net",
        "   │  A     192.0.2.2; insecure, TTL 300 s",
        "   │  AAAA  none; insecure",
        "   └─ 192.0.2.2 port 25",
        "         TLS   may: if offered, with any certificate; configured level may; no DANE: the address of",
        "                 mx2.example.net is not secure",
        "         from  203.0.113.7 as client.example; reverse and forward names match",
    ]


def test_mta_sts_says_who_is_listed(authority: Authority) -> None:
    found = explained(network(authority), "example.net")
    assert found.status is Exit.OK
    text = drawn(found, 140)
    assert "│  MTA-STS  policy, mode enforce (fetched): *.example.net; max age 86400 s" in text
    assert "│  │  MTA-STS  listed in the policy" in text
    assert "   │  MTA-STS  not listed in the policy" in text
    assert "TLS  secure: required, with a certificate for one of the names; MTA-STS policy, mode enforce" in text
    assert "TLS  not to be used now: other.example is not among the exchangers of the MTA-STS policy" in text


@pytest.mark.parametrize(
    ("asked", "status", "headline"),
    [
        ("null.example", Exit.NO_HOST, "not deliverable: null.example does not accept mail (null MX) (5.1.10)"),
        ("nx.invalid", Exit.NO_HOST, "not deliverable: no such domain: nx.invalid (5.1.2)"),
        ("slow.example", Exit.TEMPORARY, "deferred: lookup of MX for slow.example failed: no answer in time"),
        ("a@[192.0.2.400]", Exit.NO_HOST, "not deliverable: destination '[192.0.2.400]' is not a valid address"),
        ("a@192.0.2.1", Exit.NO_HOST, "not deliverable: destination '192.0.2.1' is an address, and belongs in"),
        ("a@", Exit.NO_HOST, "not deliverable: destination '' names no host"),
        ("\x1b[31m", Exit.NO_HOST, "not deliverable: destination '[31m"),
        ("a@[192.0.2.1]", Exit.OK, "deliverable, 1 address"),
        ("[IPv6:2001:db8::1]:2525", Exit.OK, "deliverable, 1 address"),
        ("UNIX:/run/a@b.sock", Exit.OK, "deliverable, 1 address"),
    ],
)
def test_the_first_line_says_it(authority: Authority, asked: str, status: Exit, headline: str) -> None:
    found = explained(network(authority), asked)
    assert found.status is status
    first = drawn(found, 200).splitlines()[0]
    assert "\x1b" not in first
    assert headline in first.replace("\\x1b", "")


def test_a_candidate_that_must_not_be_used_makes_mail_wait(authority: Authority) -> None:
    dns = "example.org SECURE\nexample.org A 192.0.2.1\n_25._tcp.example.org FAIL SERVFAIL"
    found = explained(network(authority, dns), "example.org")
    assert found.status is Exit.TEMPORARY
    assert "example.org: deferred, 1 address of 1 host" in drawn(found)
    assert "TLSA  server failure at _25._tcp.example.org (so says the table)" in drawn(found)


def test_without_security_nothing_is_said_of_it(authority: Authority) -> None:
    found = explained(network(authority), "example.org", SessionSettings(helo_name="other.example"))
    assert "TLS   not used: nothing is configured" in drawn(found)
    assert "from  203.0.113.7 as other.example; the address is called client.example, the name does not" in drawn(found)


def test_connecting_adds_what_servers_say(authority: Authority) -> None:
    record, server = tlsa_of(authority, "mx1.example.org")
    dns = f"{DNS}\n_25._tcp.mx1.example.org TLSA {record}"
    there = network(authority, dns, mx1=server, mx2=Unreachable(), mx1v6=Script(greeting=Reaction("554 not you\x1b")))
    found = explained(there, "example.org", connect=True)
    text = drawn(found, 140)
    assert found.status is Exit.OK
    assert "tried     a session can be opened, " in text
    assert "offers    PIPELINING" in text
    assert "session   TLSv1.3 TLS_AES_256_GCM_SHA384 256 bits x25519" in text
    assert f"verdict   good enough: DANE-EE, TLSA {record[:22]}..." in text
    assert "tried  no connection: Connection refused" in text
    assert r"greeting  554 not you\x1b" in text
    assert there.connections[0].lines == ["EHLO client.example", "STARTTLS", "EHLO client.example", "QUIT"]
    assert all("MAIL" not in one for connection in there.connections for one in connection.lines)
    assert all(connection.closed_at is not None for connection in there.connections)


def test_a_session_in_clear_is_called_so(authority: Authority) -> None:
    dns = "example.org A 192.0.2.1"
    plain = Script(replies={"EHLO": [Reaction("250-hi\r\n250-DSN\r\n250 ")]})
    text = drawn(explained(network(authority, dns, mx1=plain), "example.org", connect=True))
    assert "note      no TLS: in clear: STARTTLS is not offered" in text
    assert "session   in clear" in text
    assert text.count("offers    DSN\n") == 1


def test_what_a_server_makes_up_does_not_fill_the_screen(authority: Authority) -> None:
    many = "".join(f"250-X{number}\r\n" for number in range(900))
    talkative = Script(replies={"EHLO": [Reaction(f"250-hi\r\n{many}250 LAST")]})
    found = explained(network(authority, "example.org A 192.0.2.1", mx1=talkative), "example.org", connect=True)
    text = drawn(found)
    assert "X34, X35 and 865 more" in text
    assert len(text) < 3000


def test_connecting_where_everybody_refuses(authority: Authority) -> None:
    dns = "example.org A 192.0.2.1"
    refusing = network(authority, dns, mx1=Script(greeting=Reaction("554 no")))
    found = explained(refusing, "example.org", connect=True)
    assert found.status is Exit.UNAVAILABLE
    assert "example.org: refused by every host, 1 address of 1 host: 554 no" in drawn(found)
    assert "no session: 554 no (5" in drawn(found)
    gone = explained(network(authority, dns, mx1=Unreachable()), "example.org", connect=True)
    assert gone.status is Exit.TEMPORARY


def test_a_certificate_that_is_not_good_enough_is_told(authority: Authority) -> None:
    dns = f"example.org SECURE\nexample.org A 192.0.2.1\n_25._tcp.example.org TLSA 3 1 1 {'11' * 32}"
    peer = authority.server("example.org")
    found = explained(network(authority, dns, mx1=peer), "example.org", connect=True)
    assert found.status is Exit.TEMPORARY
    shown = drawn(found, 140)
    assert "verdict   not good enough: no TLSA record matches the certificate" in shown
    assert "example.org: deferred, 1 address of 1 host: no TLSA record matches the certificate" in shown
    needed = re.search(r"needed    TLSA (3 1 1 [0-9a-f]{64})\n", shown)
    assert needed is not None
    mended = dns.replace(f"3 1 1 {'11' * 32}", needed[1])
    server = found.probes[found.plan.route.candidates[0].endpoint].facts
    assert server is not None
    certificate = explain_document([found])["explanations"][0]["candidates"][0]["probe"]["tls"]["certificate"]
    assert certificate["tlsa"] == needed[1]
    assert certificate["names"] == ["example.org"]
    assert certificate["sha256"] == hashlib.sha256(server.chain[0]).hexdigest()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ", certificate["not_after"])
    again = explained(network(authority, mended, mx1=peer), "example.org", connect=True)
    assert again.status is Exit.OK, "the record that is named is the one that is needed"


def test_delivery_executes_the_plan_that_was_printed(authority: Authority) -> None:
    """The JSON goes out, comes back, and is executed without a question to anybody."""
    record, server = tlsa_of(authority, "mx1.example.org")
    dns = f"{DNS}\n_25._tcp.mx1.example.org TLSA {record}"
    found = explained(network(authority, dns), "example.org")
    (plan,) = read_plans(json.dumps(explain_document([found])))
    assert plan == found.plan

    elsewhere = world(settings=ASKING, dns="", observed=True)
    elsewhere.network = network(authority, "", mx2=server, mx1=Script(keywords=("PIPELINING",)))
    request = DestinationRequest(destination="example.org", shuffle=lambda items: None)
    elsewhere.route = Route(request, given=plan)
    elsewhere.courier = Courier(ASKING)
    elsewhere.deliver(message())
    elsewhere.close()
    assert elsewhere.fates == [Disposition.DELIVERED]
    tried = [endpoint for _, endpoint in elsewhere.network.attempts]
    assert tried == [candidate.endpoint for candidate in plan.route.candidates]
    assert "STARTTLS" not in elsewhere.network.connections[0].lines  # DANE was asked for, and it offered no TLS
    assert elsewhere.route.plan == plan


def test_a_document_of_something_else_holds_no_plans() -> None:
    for text in ("[]", "{}", '{"schema": "zsmtp.trace/1"}'):
        with pytest.raises(ConfigError, match="neither an explanation"):
            read_plans(text)
    with pytest.raises(ConfigError, match="explanations: not a list"):
        read_plans('{"schema": "zsmtp.explain/1"}')
    with pytest.raises(ConfigError, match="not a plan: null"):
        read_plans('{"schema": "zsmtp.explain/1", "explanations": [{}]}')


def test_the_document_tells_scripts_what_people_see(authority: Authority) -> None:
    record, server = tlsa_of(authority, "mx1.example.org")
    dns = f"{DNS}\n_25._tcp.mx1.example.org TLSA {record}"
    found = explained(network(authority, dns, mx1=server, mx1v6=server, mx2=server), "a@example.org", connect=True)
    document = json.loads(json.dumps(explain_document([found])))
    assert document["schema"] == "zsmtp.explain/1"
    (one,) = document["explanations"]
    assert (one["asked"], one["status"]) == ("a@example.org", 0)
    first = one["candidates"][0]
    assert (first["host"], first["address"], first["port"]) == ("mx1.example.org", "192.0.2.1", 25)
    assert first["from"]["reverse_matches"] is True
    assert first["tlsa"][0]["records"][0]["usable"] is True
    assert first["probe"]["tls"]["judgement"]["verified"] == "DANE-EE"
    assert [step["name"] for step in first["probe"]["steps"]] == [
        "connect", "greeting", "EHLO", "STARTTLS", "TLS handshake", "EHLO", "QUIT",
    ]  # fmt: skip
    assert one["candidates"][1]["from"]["problem"].startswith("no way to")


@pytest.mark.parametrize(("width"), [40, 80, 140])
def test_lines_fit_the_terminal(authority: Authority, width: int) -> None:
    record, server = tlsa_of(authority, "mx1.example.org")
    dns = f"{DNS}\n_25._tcp.mx1.example.org TLSA {record}"
    found = explained(network(authority, dns, mx1=server, mx1v6=server), "user@example.org", connect=True)
    assert max(map(len, drawn(found, width).splitlines())) <= width


@pytest.mark.parametrize(
    ("asked", "destination"),
    [
        ("example.org", "example.org"),
        ("a@example.org", "example.org"),
        ('"a@b"@example.org', "example.org"),
        ("a@[IPv6:::1]:25", "[IPv6:::1]:25"),
        ("unix:/run/a@b", "unix:/run/a@b"),
    ],
)
def test_where_mail_to_an_address_goes(asked: str, destination: str) -> None:
    assert destination_of(asked) == destination


def test_times_are_for_people() -> None:
    assert [shown_time(seconds) for seconds in (0.0004, 0.34, 2.14)] == ["0.4\u00a0ms", "340\u00a0ms", "2.1\u00a0s"]


def test_a_policy_in_testing_mode_is_told_and_tried(authority: Authority) -> None:
    there = network(authority, mx2=authority.server("elsewhere.example"), other=Script())
    there.policies["mta-sts.example.net"] = POLICY.replace(b"enforce", b"testing")
    text = drawn(explained(there, "example.net", connect=True), 160)
    assert "in trial: secure: required, with a certificate for one of the names; MTA-STS policy, mode testing" in text
    assert "in trial: would not be used: other.example is not among the exchangers of the MTA-STS policy" in text
    assert "in trial: would not do: the certificate is for elsewhere.example, not for mx2.example.net" in text
    document = explain_document([explained(there, "example.net", connect=True)])
    judgement = document["explanations"][0]["candidates"][0]["probe"]["tls"]["judgement"]
    assert judgement["ok"] is True
    assert judgement["trial"]["problem"] == "certificate-host-mismatch"


def test_a_configuration_that_cannot_be_used_makes_mail_wait(authority: Authority) -> None:
    def policy_for(destination: str) -> TLSPolicy:
        raise ConfigError("policy table:3: no level")

    assert ASKING.security is not None
    settings = replace(ASKING, security=replace(ASKING.security, policy_for=policy_for))
    found = explained(network(authority), "example.org", settings)
    assert found.status is Exit.TEMPORARY
    text = drawn(found)
    assert "policy  policy table:3: no level" in text
    assert "TLS     not to be used now: policy table:3: no level" in text
