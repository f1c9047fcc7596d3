"""What a DNS reply says, good and hostile ones."""

from collections.abc import Iterable

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dns.loopback_nameserver import reply

from zsmtp.dns.answer import MX, TLSA, WKS, Answer, Query, Record, RecordType, Status
from zsmtp.dns.wire import MAX_RECORDS, Question

SOA = "com. 900 IN SOA ns.example. admin.example. 1 7200 900 1209600 600"


def read(
    query: Query,
    *records: str,
    authority: Iterable[str] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    flags: int = 0,
    trusted: bool = False,
) -> Answer:
    question = Question(query)
    message = reply(dns.message.from_wire(question.wire), *records, authority=authority, rcode=rcode, flags=flags)
    return question.read(message.to_wire(), trusted=trusted)


MX_OF_EXAMPLE = Query("example.com", RecordType.MX)
A_OF_EXAMPLE = Query("example.com", RecordType.A)


@pytest.mark.parametrize(
    ("record_type", "data", "record"),
    [
        (RecordType.A, "192.0.2.1", "192.0.2.1"),
        (RecordType.AAAA, "2001:DB8:0::1", "2001:db8::1"),
        (RecordType.AAAA, "::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        (RecordType.MX, "10 MX.Example.Com.", MX(10, "mx.example.com")),
        (RecordType.MX, "0 .", MX(0, "")),
        (RecordType.MX, r"10 a\.b\027.example.", MX(10, r"a\.b\027.example")),
        (RecordType.PTR, "Host.Example.Com.", "host.example.com"),
        (RecordType.TXT, '"v=STSv1; id=1" "x"', (b"v=STSv1; id=1", b"x")),
        (RecordType.TLSA, "3 1 1 " + "ab" * 32, TLSA(3, 1, 1, b"\xab" * 32)),
        (RecordType.WKS, "192.0.2.1 6 25 80", WKS("192.0.2.1", 6, frozenset({25, 80}))),
    ],
)
def test_records(record_type: RecordType, data: str, record: Record) -> None:
    answer = read(Query("example.com", record_type), f"example.com. 77 IN {record_type.value} {data}")
    assert (answer.status, answer.records, answer.ttl) == (Status.OK, (record,), 77)
    assert (answer.canonical, answer.secure, answer.problem) == ("example.com", False, "")


@pytest.mark.parametrize(
    ("octets", "record"),
    [
        (b"\x03\x01\x01" + b"\xab" * 31, TLSA(3, 1, 1, b"\xab" * 31)),
        (b"\x03\x01\x02" + b"\xab" * 32, TLSA(3, 1, 2, b"\xab" * 32)),
        (b"\x03\x01\x01", TLSA(3, 1, 1, b"")),
        (b"\x03", TLSA(3, 255, 255, b"")),
        (b"", TLSA(255, 255, 255, b"")),
    ],
)
def test_a_tlsa_record_that_makes_no_sense_leaves_the_others_as_they_are(octets: bytes, record: TLSA) -> None:
    question = Question(Query("_25._tcp.example.com", RecordType.TLSA))
    good = "_25._tcp.example.com. 77 IN TLSA 3 1 1 " + "ab" * 32
    message = reply(dns.message.from_wire(question.wire), good)
    message.answer[0].add(dns.rdata.GenericRdata(dns.rdataclass.IN, dns.rdatatype.TLSA, octets))
    answer = question.read(message.to_wire(), trusted=False)
    assert answer.status is Status.OK
    assert set(answer.records) == {TLSA(3, 1, 1, b"\xab" * 32), record}


def test_the_question_asks_for_dnssec_in_a_datagram_that_fits() -> None:
    message = dns.message.from_wire(Question(MX_OF_EXAMPLE).wire)
    assert message.ednsflags & dns.flags.DO
    assert message.payload == 1232
    assert message.flags & dns.flags.RD
    assert dns.message.from_wire(Question(MX_OF_EXAMPLE, edns=False).wire).edns == -1


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example", "a." * 200, "\udcff"])
def test_a_question_about_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="not a domain name"):
        Question(Query(name, RecordType.A))


def test_aliases_are_followed_inside_the_answer() -> None:
    answer = read(
        MX_OF_EXAMPLE,
        "b.example. 50 IN CNAME c.example.",
        "c.example. 90 IN MX 5 mx.c.example.",
        "EXAMPLE.com. 60 IN CNAME B.example.",
    )
    assert (answer.records, answer.canonical, answer.ttl) == ((MX(5, "mx.c.example"),), "c.example", 50)


def test_an_alias_left_open_tells_how_far_it_came() -> None:
    answer = read(MX_OF_EXAMPLE, "example.com. 60 IN CNAME b.example.")
    assert (answer.status, answer.canonical, answer.problem) == (Status.NODATA, "b.example", "")


def test_a_loop_of_aliases() -> None:
    answer = read(MX_OF_EXAMPLE, "example.com. 60 IN CNAME b.example.", "b.example. 60 IN CNAME example.com.")
    assert answer.status is Status.NODATA
    assert "loop" in answer.problem


@pytest.mark.parametrize(("steps", "status"), [(8, Status.OK), (9, Status.NODATA)])
def test_eight_aliases(steps: int, status: Status) -> None:
    chain = [f"n{n}.example. 60 IN CNAME n{n + 1}.example." for n in range(steps)]
    answer = read(Query("n0.example", RecordType.A), *chain, f"n{steps}.example. 60 IN A 192.0.2.1")
    assert answer.status is status
    assert bool(answer.problem) == (status is Status.NODATA)


def test_foreign_records_are_ignored() -> None:
    answer = read(
        A_OF_EXAMPLE,
        "example.com. 60 IN A 192.0.2.1",
        "www.example.com. 60 IN A 203.0.113.1",
        "other.example. 60 IN CNAME example.com.",
    )
    assert answer.records == ("192.0.2.1",)
    foreign = read(A_OF_EXAMPLE, "bank.example. 60 IN A 203.0.113.1")
    assert (foreign.status, foreign.records) == (Status.NODATA, ())


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
def test_negative_answers_have_the_life_time_of_their_zone(rcode: dns.rcode.Rcode) -> None:
    answer = read(A_OF_EXAMPLE, authority=[SOA], rcode=rcode)
    assert answer.status is (Status.NXDOMAIN if rcode else Status.NODATA)
    assert answer.ttl == 600
    assert read(A_OF_EXAMPLE, authority=[SOA.replace("com. ", "org. ", 1)], rcode=rcode).ttl == 0
    assert read(A_OF_EXAMPLE, rcode=rcode).ttl == 0


def test_no_such_domain_at_the_end_of_an_alias() -> None:
    answer = read(A_OF_EXAMPLE, "example.com. 60 IN CNAME gone.example.", rcode=dns.rcode.NXDOMAIN)
    assert (answer.status, answer.canonical) == (Status.NXDOMAIN, "gone.example")


def test_no_such_domain_with_records_is_not_believed() -> None:
    answer = read(A_OF_EXAMPLE, "example.com. 60 IN A 192.0.2.1", rcode=dns.rcode.NXDOMAIN)
    assert answer.status is Status.SERVFAIL


def test_a_referral_is_no_answer() -> None:
    assert read(A_OF_EXAMPLE, authority=["com. 60 IN NS ns.example."]).status is Status.SERVFAIL
    authoritative = read(A_OF_EXAMPLE, authority=["com. 60 IN NS ns.example."], flags=dns.flags.AA)
    assert authoritative.status is Status.NODATA


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.BADVERS])
def test_failures_of_the_server(rcode: dns.rcode.Rcode) -> None:
    answer = read(A_OF_EXAMPLE, rcode=rcode)
    assert answer.status is Status.SERVFAIL
    assert answer.problem


@pytest.mark.parametrize(("code", "status"), [(6, Status.BOGUS), (7, Status.BOGUS), (22, Status.SERVFAIL)])
def test_failed_validation_is_told_apart(code: int, status: Status) -> None:
    question = Question(A_OF_EXAMPLE)
    message = reply(dns.message.from_wire(question.wire), rcode=dns.rcode.SERVFAIL)
    message.use_edns(options=[dns.edns.EDEOption(code, "because\x1b[2J")])
    answer = question.read(message.to_wire(), trusted=False)
    assert answer.status is status
    assert str(code) in answer.problem
    assert answer.problem.isprintable()


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("flags", [0, int(dns.flags.AD)])
def test_secure_takes_the_bit_and_the_trust(trusted: bool, flags: int) -> None:
    record = "example.com. 60 IN A 192.0.2.1"
    assert read(A_OF_EXAMPLE, record, flags=flags, trusted=trusted).secure == (trusted and flags != 0)
    negative = read(A_OF_EXAMPLE, rcode=dns.rcode.NXDOMAIN, flags=flags, trusted=trusted)
    assert negative.secure == (trusted and flags != 0)


def test_an_answer_to_another_question() -> None:
    question = Question(A_OF_EXAMPLE)
    for other in (Query("example.org", RecordType.A), Query("example.com", RecordType.AAAA)):
        wire = reply(dns.message.from_wire(Question(other).wire)).to_wire()
        answer = question.read(question.wire[:2] + wire[2:], trusted=True)
        assert (answer.status, answer.secure) == (Status.SERVFAIL, False)


def test_records_without_end_are_not_read() -> None:
    records = [f"example.com. 60 IN A 192.0.{n // 256}.{n % 256}" for n in range(MAX_RECORDS + 1)]
    question = Question(A_OF_EXAMPLE, edns=False)
    message = reply(dns.message.from_wire(question.wire), *records[:-1])
    assert len(question.read(message.to_wire(max_size=65535), trusted=False).records) == MAX_RECORDS
    message = reply(dns.message.from_wire(question.wire), *records)
    assert question.read(message.to_wire(max_size=65535), trusted=False).status is Status.SERVFAIL


def test_the_data_of_other_records_is_not_looked_at() -> None:
    """A record that makes no sense does not take the others with it, unless it is one of those asked for."""
    question = Question(A_OF_EXAMPLE)
    other = dns.rdata.GenericRdata(dns.rdataclass.IN, dns.rdatatype.SRV, b"\xff")
    message = reply(dns.message.from_wire(question.wire), "example.com. 60 IN A 192.0.2.1")
    message.answer.append(dns.rrset.from_rdata("example.com.", 60, other))
    assert question.read(message.to_wire(), trusted=False).records == ("192.0.2.1",)
    message.answer[0].add(dns.rdata.GenericRdata(dns.rdataclass.IN, dns.rdatatype.A, b"\xff"))
    assert question.read(message.to_wire(), trusted=False).problem.startswith("malformed answer")


RECORDS = {
    "A": st.sampled_from(["192.0.2.1", "192.0.2.2"]),
    "AAAA": st.just("2001:db8::1"),
    "MX": st.sampled_from(["10 Mx.Example.com.", "20 b.example.", "0 ."]),
    "TXT": st.sampled_from(['"a" "b"', '""']),
    "PTR": st.just("host.b.example."),
    "CNAME": st.sampled_from(["b.example.", "c.b.example."]),
    "TLSA": st.just("3 1 1 " + "ab" * 32),
    "WKS": st.just("192.0.2.1 6 25 80"),
    "SRV": st.just("1 2 3 a.example."),
}


@st.composite
def record_lines(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(sorted(RECORDS)))
    name = draw(st.sampled_from(["example.com.", "EXAMPLE.com.", "b.example.", "c.b.example.", "a.example."]))
    return f"{name} {draw(st.sampled_from([0, 60, 300]))} IN {kind} {draw(RECORDS[kind])}"


@given(st.sampled_from(list(RecordType)), st.lists(record_lines(), max_size=6))
def test_replies_are_read_as_dnspython_reads_them(kind: RecordType, lines: list[str]) -> None:
    question = Question(Query("example.com", kind))
    wire = reply(dns.message.from_wire(question.wire), *lines).to_wire()
    answer = question.read(wire, trusted=False)
    parsed = dns.message.from_wire(wire)
    assert isinstance(parsed, dns.message.QueryMessage)
    try:
        chain = parsed.resolve_chaining()
    except dns.exception.DNSException:
        assert answer.problem  # a loop
        return
    assert answer.canonical == chain.canonical_name.to_text(True).lower()
    assert len(answer.records) == (0 if chain.answer is None else len(chain.answer))
    if chain.answer is not None:
        assert answer.ttl == chain.minimum_ttl


@given(st.binary(max_size=200))
def test_noise_is_a_failure(noise: bytes) -> None:
    question = Question(MX_OF_EXAMPLE)
    assert question.read(noise, trusted=True).status is Status.SERVFAIL
    assert question.read(question.wire[:2] + noise, trusted=True).status is not Status.OK


@given(st.data())
def test_damaged_answers_never_raise(data: st.DataObject) -> None:
    question = Question(MX_OF_EXAMPLE)
    records = ["example.com. 60 IN CNAME b.example.", "b.example. 60 IN MX 5 mx.b.example.", "b.example. 60 IN MX 6 ."]
    wire = bytearray(reply(dns.message.from_wire(question.wire), *records, authority=[SOA]).to_wire())
    for position in data.draw(st.lists(st.integers(2, len(wire) - 1), max_size=8)):
        wire[position] = data.draw(st.integers(0, 255))
    answer = question.read(bytes(wire[: data.draw(st.integers(0, len(wire)))]), trusted=False)
    assert answer.query == MX_OF_EXAMPLE
    assert all(isinstance(record, MX) for record in answer.records)
    assert bool(answer.records) == (answer.status is Status.OK)
    assert not answer.secure
