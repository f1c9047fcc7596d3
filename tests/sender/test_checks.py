"""Senders as receivers see them: a zone where nothing is wrong, and each fault planted in it alone."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest
from tests.sender.zones import asked, zone

from zsmtp.sender.checks import MAX_EXCHANGERS, check_sender
from zsmtp.sender.findings import Grade, PublishedKey, SenderFacts, SenderFinding
from zsmtp.sender.receivers import SenderRequirement, asking, receivers
from zsmtp.signing.signature import Algorithm

KEY = b"the public key of example.org in DER"
OTHER = b"another public key, of somebody else"
POLICY = b"version: STSv1\nmode: enforce\nmx: mx.example.org\nmax_age: 604800\n"


def key_text(key: bytes, more: str = "") -> str:
    return f"v=DKIM1; k=rsa; {more}p={b64encode(key).decode()}"


GOOD = f"""
example.org MX 10 mx.example.org
example.org TXT v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 -all
example.org TXT site-verification=1
_dmarc.example.org TXT v=DMARC1; p=reject; rua=mailto:d@example.org
2026._domainkey.example.org TXT {key_text(KEY)[:40]}|{key_text(KEY)[40:]}
mx.example.org A 192.0.2.25
mta-sts.example.org A 192.0.2.26
mail.example.org A 192.0.2.1
mail.example.org AAAA 2001:db8::1
mail.example.org TXT v=spf1 a -all
1.2.0.192.in-addr.arpa PTR mail.example.org
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR mail.example.org
_mta-sts.example.org TXT v=STSv1; id=1;
_smtp._tls.example.org TXT v=TLSRPTv1; rua=mailto:t@example.org
default._bimi.example.org TXT v=BIMI1; l=https://example.org/logo.svg;
"""
HEADER = b"""\
From: Ann <ann@example.org>
Date: Thu, 5 Mar 2026 15:03:09 +0100
Message-ID: <1@example.org>
List-Unsubscribe: <https://example.org/u/1>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
"""
SIGNED = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=2026; bh="
    + b64encode(bytes(32))
    + b"; b=YQ==;\n h=From:Date:%s\n"
)
SENDER = SenderFacts(
    "ann@example.org",
    addresses=("192.0.2.1", "2001:db8::1"),
    helo="mail.example.org",
    keys=(PublishedKey("example.org", "2026", Algorithm.RSA_SHA256, KEY, 2048),),
    header=HEADER,
    now=1_772_719_391.0,
)


def check(names: str = GOOD, sender: SenderFacts = SENDER, policy: bytes | None = POLICY) -> list[SenderFinding]:
    return asked(check_sender(sender), zone(names), policy)[0]


def faults(found: list[SenderFinding]) -> list[tuple[str, str]]:
    return [(one.topic, one.grade.value) for one in found if one.grade is not Grade.GOOD]


def changed(*changes: tuple[str, str]) -> str:
    """The good zone with lines changed; a line that becomes empty is gone."""
    names = GOOD
    for before, after in changes:
        assert before in names
        names = names.replace(before, after)
    return "\n".join(line for line in names.splitlines() if line.strip() and len(line.split()) > 2)


def test_where_nothing_is_wrong_nothing_is_found() -> None:
    found = check()
    assert faults(found) == []
    assert {one.topic for one in found} == {
        "reverse name",
        "greeting",
        "MX",
        "SPF",
        "SPF of the greeting",
        "DKIM",
        "DMARC",
        "alignment",
        "MTA-STS",
        "BIMI",
        "unsubscribe",
    }


SPF = "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 -all"
RECORD = f"2026._domainkey.example.org TXT {key_text(KEY)[:40]}|{key_text(KEY)[40:]}"
PTR4 = "1.2.0.192.in-addr.arpa PTR mail.example.org"
MANY = " ".join(["a:mx.example.org"] * 11)


GREETING = (
    "mail.example.org A 192.0.2.1\nmail.example.org AAAA 2001:db8::1\nmail.example.org TXT v=spf1 a -all\n"
    "1.2.0.192.in-addr.arpa PTR mail.example.org\n"
)
NO_GREETING = "out.example.org A 192.0.2.1\nout.example.org AAAA 2001:db8::1\n" + GREETING.splitlines()[3].replace(
    "mail", "out"
)
OUT6 = "ip6.arpa PTR out.example.org"

FOLLOWS = {  # what is wrong as well where this is
    "SPF": {"alignment"},
    "DMARC": {"alignment"},
    "greeting": {"reverse name", "SPF of the greeting"},
    "reverse name": {"greeting", "SPF of the greeting"},
    "MX": {"MTA-STS"},
}


@pytest.mark.parametrize(
    ("changes", "topic", "grade", "words"),
    [
        pytest.param(
            [(key_text(KEY)[40:], key_text(OTHER)[40:])],
            "DKIM",
            "refused",
            "is not that of the private key",
            id="wrong key",
        ),
        pytest.param([(RECORD, "")], "DKIM", "refused", "no key at 2026._domainkey", id="missing selector"),
        pytest.param(
            [("p=" + b64encode(KEY).decode()[:20], "p=")],
            "DKIM",
            "refused",
            "2026._domainkey.example.org",
            id="broken key",
        ),
        pytest.param([("k=rsa; ", "k=rsa; t=y; ")], "DKIM", "weak", "for tests", id="key for tests"),
        pytest.param(
            [("k=rsa", "k=ed25519")], "DKIM", "refused", "not that of the private key", id="other kind of key"
        ),
        pytest.param([(SPF, f"v=spf1 {MANY} -all")], "SPF", "refused", "more than 10 terms", id="eleven lookups"),
        pytest.param(
            [(SPF, "v=spf1 ip4:192.0.2.77 -all")], "SPF", "refused", "fail: -all", id="-all without this address"
        ),
        pytest.param([(SPF, "v=spf1 ip4:192.0.2.77 ~all")], "SPF", "weak", "softfail: ~all", id="~all without it"),
        pytest.param(
            [(SPF, f"{SPF}\nexample.org TXT v=spf1 -all")], "SPF", "refused", "2 SPF records", id="two SPF records"
        ),
        pytest.param([(SPF, "v=spf1 ipv4:192.0.2.1 -all")], "SPF", "refused", "no mechanism ipv4", id="SPF syntax"),
        pytest.param([(SPF, "nothing")], "SPF", "refused", "has no SPF record", id="no SPF"),
        pytest.param(
            [(SPF, "v=spf1 include:gone.example ip4:192.0.2.1 -all")],
            "SPF",
            "refused",
            "leads to no SPF record",
            id="include of nothing",
        ),
        pytest.param(
            [("_dmarc.example.org TXT v=DMARC1; p=reject; rua=mailto:d@example.org", "")],
            "DMARC",
            "weak",
            "has no DMARC record",
            id="no DMARC",
        ),
        pytest.param(
            [("v=DMARC1; p=reject", "v=DMARC1; p=deny; x")], "DMARC", "weak", "cannot be used", id="DMARC syntax"
        ),
        pytest.param(
            [("v=DMARC1; p=reject;", "v=DMARC1; p=none\n_dmarc.example.org TXT v=DMARC1; p=reject;")],
            "DMARC",
            "weak",
            "2 records",
            id="two DMARC records",
        ),
        pytest.param([(PTR4, "")], "reverse name", "refused", "192.0.2.1 has no reverse name", id="no reverse name"),
        pytest.param(
            [(PTR4, "1.2.0.192.in-addr.arpa PTR dyn-1.isp.example")],
            "reverse name",
            "refused",
            "does not resolve to",
            id="reverse name not confirmed",
        ),
        pytest.param(
            [("mail.example.org A 192.0.2.1", "mail.example.org A 192.0.2.99")],
            "greeting",
            "weak",
            "is no name of 192.0.2.1",
            id="greeting elsewhere",
        ),
        pytest.param(
            [(GREETING, NO_GREETING), ("ip6.arpa PTR mail.example.org", OUT6)],
            "greeting",
            "refused",
            "mail.example.org, which this side greets with, has no address",
            id="greeting without address",
        ),
        pytest.param(
            [(PTR4, f"{PTR4}.isp.example\nmail.example.org.isp.example A !timeout")],
            "reverse name",
            "unknown",
            "cannot be looked up now",
            id="reverse name not answered",
        ),
        pytest.param(
            [("mail.example.org TXT v=spf1 a -all", "mail.example.org TXT v=spf1 -all")],
            "SPF of the greeting",
            "refused",
            "notices",
            id="SPF of the greeting",
        ),
        pytest.param(
            [("example.org MX 10 mx.example.org", "example.org MX 0 .")], "MX", "refused", "takes no mail", id="null MX"
        ),
        pytest.param(
            [("example.org MX 10 mx.example.org", "example.org MX 10 192.0.2.25")],
            "MX",
            "refused",
            "is an address",
            id="MX is an address",
        ),
        pytest.param(
            [("mx.example.org A 192.0.2.25", "mx.example.org CNAME host.example.net\nhost.example.net A 192.0.2.25")],
            "MX",
            "refused",
            "is an alias (CNAME) of host.example.net",
            id="MX is an alias",
        ),
        pytest.param([("mx.example.org A 192.0.2.25", "")], "MX", "refused", "has no address", id="MX without address"),
        pytest.param(
            [
                (
                    "example.org MX 10 mx.example.org",
                    "example.org MX 10 mx.example.org\nexample.org MX 20 new.example.org\nnew.example.org A 192.0.2.26",
                )
            ],
            "MTA-STS",
            "weak",
            "does not list new.example.org",
            id="exchanger not in the policy",
        ),
        pytest.param(
            [("_smtp._tls.example.org TXT v=TLSRPTv1; rua=mailto:t@example.org", "")],
            "TLS reports",
            "note",
            "no address for reports",
            id="no TLS reports",
        ),
        pytest.param([("l=https://", "l=http://")], "BIMI", "weak", "no https address", id="BIMI syntax"),
        pytest.param(
            [("example.org TXT " + SPF, "example.org TXT !timeout"), ("example.org TXT site-verification=1", "")],
            "SPF",
            "unknown",
            "cannot be looked up now",
            id="SPF not answered",
        ),
        pytest.param(
            [(RECORD, "2026._domainkey.example.org TXT !servfail")],
            "DKIM",
            "unknown",
            "cannot be looked up now",
            id="key not answered",
        ),
    ],
)
def test_each_fault_is_found(changes: list[tuple[str, str]], topic: str, grade: str, words: str) -> None:
    found = check(changed(*changes))
    assert (topic, grade) in faults(found)
    assert any(words in one.text for one in found if one.topic == topic)
    others = {one for one, _ in faults(found)} - {topic}
    assert others <= FOLLOWS.get(topic, set()), "nothing else is held against the sender"


def test_a_policy_that_cannot_be_fetched_is_found() -> None:
    (finding,) = [one for one in check(policy=None) if one.topic == "MTA-STS"]
    assert finding.grade is Grade.WEAK
    assert "the certificate has expired" in finding.text


def test_mail_under_another_domain_is_not_aligned() -> None:
    names = GOOD + "_dmarc.example.net TXT v=DMARC1; p=reject\nexample.net MX 10 mx.example.net\n"
    found = check(names, replace(SENDER, author="example.net"))
    (finding,) = [one for one in found if one.topic == "alignment"]
    assert finding.grade is Grade.REFUSED
    assert finding.receivers == ("all that know DMARC",)


def test_a_key_of_the_organisation_is_aligned() -> None:
    found = check(sender=replace(SENDER, address="ann@example.org", author="news.example.org", addresses=()))
    (finding,) = [one for one in found if one.topic == "alignment"]
    assert finding.text.endswith("passes by DKIM")


def test_what_depends_on_an_address_that_is_not_known() -> None:
    """Behind a relay SPF may well pass: that no key does is no reason to say that all is lost."""
    for sender in (replace(SENDER, addresses=(), keys=()), replace(SENDER, addresses=())):
        (finding,) = [one for one in check(changed((RECORD, "")), sender) if one.topic == "alignment"]
        assert finding.grade is Grade.UNKNOWN


def test_strict_alignment() -> None:
    names = changed(("p=reject;", "p=reject; adkim=s; aspf=s;"))
    (finding,) = [one for one in check(names, replace(SENDER, author="news.example.org")) if one.topic == "alignment"]
    assert finding.grade is Grade.REFUSED


def test_a_next_key_is_published_before_it_signs() -> None:
    later = PublishedKey("example.org", "2027", Algorithm.RSA_SHA256, OTHER, 2048, active_from=1_798_761_600.0)
    sender = replace(SENDER, next_keys=(later,))
    (finding,) = [one for one in check(sender=sender) if one.grade is not Grade.GOOD]
    assert (finding.topic, finding.grade) == ("DKIM", Grade.WEAK)
    assert finding.text.startswith(
        "the next key, which signs from 2027-01-01 00:00 UTC: no key at 2027._domainkey.example.org"
    )
    assert finding.publish == f'2027._domainkey.example.org. IN TXT "{key_text(OTHER)}"\n'
    assert faults(check(f"{GOOD}2027._domainkey.example.org TXT {key_text(OTHER)}\n", sender)) == []


def test_a_key_for_its_domain_only_signs_for_no_other() -> None:
    """``t=s`` in the record, and ``i=`` of a domain below that of ``d=`` (RFC 6376 3.6.1)."""
    (key,) = SENDER.keys
    strict = changed((key_text(KEY)[:40], key_text(KEY, "t=s; ")[:45]), (key_text(KEY)[40:], key_text(KEY)[40:]))
    for identity, expected in (("news.example.org", ["refused"]), ("example.org", ["good"]), ("", ["good"])):
        sender = replace(SENDER, keys=(replace(key, identity=identity),))
        assert [one.grade.value for one in check(strict, sender) if one.topic == "DKIM"] == expected
        assert [one.grade.value for one in check(GOOD, sender) if one.topic == "DKIM"] == ["good"]


def test_the_domain_in_from_takes_mail_too() -> None:
    names = f"{GOOD}example.net MX 0 .\n"
    found = [one for one in check(names, replace(SENDER, author="example.net")) if one.topic == "MX"]
    assert [(one.grade.value, one.text.partition(" ")[0]) for one in found] == [
        ("good", "bounces"),
        ("refused", "example.net"),
    ]


def test_only_some_exchangers_are_looked_up() -> None:
    many = "".join(f"example.org MX {n} mx{n:03}.example.org\nmx{n:03}.example.org A 192.0.2.2\n" for n in range(999))
    _, questions = asked(check_sender(SENDER), zone(GOOD + many), POLICY)
    assert sum(one.startswith("A mx") for one in questions) == MAX_EXCHANGERS
    assert len(questions) < 80


@pytest.mark.parametrize(("bits", "grade"), [(512, "refused"), (1024, "weak"), (2048, "good")])
def test_the_size_of_a_key(bits: int, grade: str) -> None:
    (key,) = SENDER.keys
    (finding,) = [one for one in check(sender=replace(SENDER, keys=(replace(key, bits=bits),))) if one.topic == "DKIM"]
    assert finding.grade.value == grade


def test_what_is_to_be_published_is_ready_to_paste() -> None:
    texts = {one.topic: one.publish for one in check(changed((RECORD, ""), (SPF, "v=spf1 ip4:192.0.2.77 -all")))}
    assert texts["SPF"] == 'example.org. IN TXT "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 ip4:192.0.2.77 -all"\n'
    assert texts["DKIM"] == f'2026._domainkey.example.org. IN TXT "{key_text(KEY)}"\n'


def test_without_a_key_mail_is_not_signed() -> None:
    (finding,) = [one for one in check(sender=replace(SENDER, keys=())) if one.topic == "DKIM"]
    assert finding.grade is Grade.WEAK
    assert "Gmail (bulk)" in finding.receivers
    other = replace(SENDER, keys=(), unsigned="there is no key for example.org")
    (finding,) = [one for one in check(sender=other) if one.topic == "DKIM"]
    assert finding.text.startswith("there is no key for example.org: mail is not signed")
    names = changed((SPF, "v=spf1 ip4:192.0.2.1 -all"))
    (finding,) = [one for one in check(names, other) if one.topic == "DKIM"]
    assert (finding.grade, "Gmail" in finding.receivers) == (Grade.REFUSED, True), "what comes by IPv6 passes nothing"


@pytest.mark.parametrize(
    ("header", "topic", "words"),
    [
        (HEADER.replace(b"Date: Thu, 5 Mar 2026 15:03:09 +0100\n", b""), "header", "Date is missing"),
        (HEADER + b"From: b@example.net\n", "header", "2 fields From"),
        (HEADER.replace(b"Post: List", b"Post: Other"), "unsubscribe", "no one-click unsubscribe"),
        (HEADER.replace(b"<https:", b"<mailto:"), "unsubscribe", "no one-click unsubscribe"),
        (HEADER + b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\n", "unsubscribe", "no one-click unsubscribe"),
        (HEADER + b"Subject: a\nsubject: b\n", "header", "2 fields Subject"),
        (HEADER.replace(b"Message-ID: <1@example.org>\n", b""), "header", "Message-ID is missing"),
        (HEADER + SIGNED % b"list-unsubscribe", "unsubscribe", "no signature covers both"),
        (HEADER + b"DKIM-Signature: broken\n", "unsubscribe", "no signature covers both"),
    ],
)
def test_the_header_of_a_message(header: bytes, topic: str, words: str) -> None:
    (finding,) = [one for one in check(sender=replace(SENDER, header=header)) if one.grade is not Grade.GOOD]
    assert finding.topic == topic
    assert words in finding.text
    assert finding.receivers


def test_one_click_counts_if_a_signature_covers_it() -> None:
    by = {one.text: one.grade for one in check() if one.topic == "unsubscribe"}
    assert by == {"by one click (RFC 8058), to be covered by a signature": Grade.GOOD}
    signed = HEADER + SIGNED % b"List-Unsubscribe:\n list-unsubscribe-post"
    for sender in (replace(SENDER, header=signed), replace(SENDER, header=signed, keys=())):
        assert {one.grade for one in check(sender=sender) if one.topic == "unsubscribe"} == {Grade.GOOD}
    (finding,) = [one for one in check(sender=replace(SENDER, keys=())) if one.topic == "unsubscribe"]
    assert (finding.grade, "no signature covers both" in finding.text) == (Grade.WEAK, True)


def test_what_is_added_is_not_missing() -> None:
    header = b"From: ann@example.org\n"
    found = check(sender=replace(SENDER, header=header, adds_missing=True))
    assert [(one.grade, one.text) for one in found if one.topic == "header"] == [
        (Grade.NOTE, "the field Date is missing, and is added"),
        (Grade.NOTE, "the field Message-ID is missing, and is added"),
    ]
    (finding,) = [
        one
        for one in check(sender=replace(SENDER, header=b"Date: x\nMessage-ID: <1@x>\n", adds_missing=True))
        if one.topic == "header"
    ]
    assert (finding.grade, finding.text) == (Grade.REFUSED, "the field From is missing")


def test_without_encryption() -> None:
    (finding,) = [one for one in check(sender=replace(SENDER, uses_tls=False)) if one.grade is not Grade.GOOD]
    assert (finding.topic, finding.receivers) == ("TLS", ("Gmail",))


BIMI = "default._bimi.example.org TXT v=BIMI1; l=https://example.org/logo.svg;"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([(BIMI, "default._bimi.example.org TXT v=spf1 -all")], id="a wildcard is no BIMI"),
        pytest.param([(BIMI, "")], id="no BIMI"),
        pytest.param([(BIMI, "default._bimi.example.org TXT v=BIMI1; l=;")], id="BIMI declined"),
        pytest.param(
            [(RECORD, f"2026._domainkey.example.org CNAME k.esp.example\nk.esp.example TXT {key_text(KEY)}")],
            id="the key behind a CNAME",
        ),
        pytest.param([(SPF, "v=spf1 redirect=_spf.example.org\n_spf.example.org TXT " + SPF)], id="SPF elsewhere"),
        pytest.param(
            [
                (
                    SPF,
                    "v=spf1 include:_a.example.org include:_b.example.org -all\n"
                    "_a.example.org TXT v=spf1 ip4:192.0.2.0/24 -all\n"
                    "_b.example.org TXT v=spf1 ip6:2001:db8::/32 -all",
                )
            ],
            id="SPF in parts",
        ),
        pytest.param(
            [("_dmarc.example.org TXT", "_dmarc.example.org TXT other\n_dmarc.example.org TXT")], id="TXT beside DMARC"
        ),
        pytest.param(
            [("p=reject;", "p=quarantine; sp=none; adkim=s; aspf=s;")], id="strict alignment of the domain itself"
        ),
        pytest.param(
            [
                ("_mta-sts.example.org TXT v=STSv1; id=1;", ""),
                ("_smtp._tls.example.org TXT v=TLSRPTv1; rua=mailto:t@example.org", ""),
            ],
            id="no MTA-STS, and nothing to report",
        ),
        pytest.param(
            [
                (
                    "mail.example.org AAAA 2001:db8::1",
                    "mail.example.org AAAA 2001:db8::1\nmail.example.org AAAA 2001:db8::2",
                )
            ],
            id="more addresses than one",
        ),
        pytest.param([(PTR4, f"{PTR4}\n1.2.0.192.in-addr.arpa PTR old.example.org")], id="a second reverse name"),
    ],
)
def test_what_is_no_fault(changes: list[tuple[str, str]]) -> None:
    assert faults(check(changed(*changes))) == []


def test_bimi_needs_a_policy_and_may_be_that_of_the_organisation() -> None:
    (finding,) = [one for one in check(changed(("p=reject", "p=none"))) if one.topic == "BIMI"]
    assert (finding.grade, "counts only if DMARC" in finding.text) == (Grade.NOTE, True)
    found = check(sender=replace(SENDER, author="news.example.org"))
    assert [one.grade for one in found if one.topic == "BIMI"] == [Grade.GOOD]
    (finding,) = [one for one in check(f"{GOOD}{BIMI}\n") if one.topic == "BIMI"]
    assert "2 records" in finding.text


def test_policies_of_both_domains_that_mail_goes_to() -> None:
    names = (
        f"{GOOD}example.net MX 5 mx.example.net\nmx.example.net A 192.0.2.7\n"
        "_mta-sts.example.net TXT v=STSv1; id=2;\nmta-sts.example.net A 192.0.2.8\n"
    )
    found = check(names, replace(SENDER, author="example.net"))
    assert [one.text for one in found if one.topic == "MTA-STS"] == [
        "mode enforce; all mail exchangers are listed",
        "the policy does not list mx.example.net: mail to example.net, bounces too, does not go there",
    ]


def test_personal_mail_needs_no_unsubscribe() -> None:
    header = b"".join(line for line in HEADER.splitlines(keepends=True) if not line.startswith(b"List"))
    assert "unsubscribe" not in {one.topic for one in check(sender=replace(SENDER, header=header))}


def test_receivers_say_where_they_say_so() -> None:
    assert all(one.source.startswith("https://") and one.since and one.seen for one in receivers())
    assert asking(SenderRequirement.REVERSE) == ("Gmail", "Yahoo")
    assert asking(SenderRequirement.DMARC) == ("Gmail (bulk)", "Yahoo (bulk)", "Outlook.com (bulk)")
