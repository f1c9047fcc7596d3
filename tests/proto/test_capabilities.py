import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.errors import ReplyError
from zsmtp.proto.capabilities import MAX_KEYWORDS, MAX_SIZE, Capabilities, parse_ehlo


def offers(*lines: bytes) -> Capabilities:
    return parse_ehlo((b"server.example", *lines))


def test_all_extensions_of_a_generous_server() -> None:
    found = offers(
        b"PIPELINING",
        b"size 1000",
        b"8BitMime",
        b"DSN",
        b"ENHANCEDSTATUSCODES",
        b"CHUNKING",
        b"BINARYMIME",
        b"SMTPUTF8",
        b"STARTTLS",
        b"DELIVERBY 60,x=y",
        b"REQUIRETLS",
        b"AUTH PLAIN login",
        b"LIMITS RCPTMAX=20 MAILMAX=5 RCPTDOMAINMAX=1",
    )
    assert (found.pipelining, found.eight_bit_mime, found.dsn, found.enhanced_status_codes) == (True,) * 4
    assert (found.chunking, found.binary_mime, found.smtputf8, found.starttls, found.require_tls) == (True,) * 5
    assert (found.size, found.deliver_by, found.auth) == (1000, 60, ("PLAIN", "LOGIN"))
    assert (found.rcpt_max, found.mail_max, found.rcpt_domain_max) == (20, 5, 1)
    assert found.problems == ()


def test_the_first_line_is_a_name_and_no_keyword() -> None:
    assert parse_ehlo([b"PIPELINING"]) == Capabilities()


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"SIZE", 0),
        (b"SIZE 0", 0),
        (b"SIZE 00100", 100),
        (b"SIZE %d" % MAX_SIZE, MAX_SIZE),
        (b"SIZE %d" % (MAX_SIZE + 1), None),
        (b"SIZE " + b"9" * 40, None),
        (b"SIZE -1", None),
        (b"SIZE +1", None),
        (b"SIZE 1 2", None),
        (b"SIZE 1k", None),
        (b"SIZE=1000", None),
        (b"SIZE \xd9\xa1", None),
    ],
)
def test_a_broken_size_is_ignored_not_obeyed(line: bytes, size: int | None) -> None:
    found = offers(line, b"PIPELINING")
    assert found.size == size
    assert found.pipelining, "only the broken extension is off"
    assert bool(found.problems) is (size is None and not line.startswith(b"SIZE="))


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        (b"LIMITS", (None, None, None)),
        (b"LIMITS rcptmax=7", (7, None, None)),
        (b"LIMITS RCPTMAX=0", (None, None, None)),
        (b"LIMITS NEWMAX=3 MAILMAX=2", (None, 2, None)),
        (b"LIMITS RCPTMAX=7 broken", (None, None, None)),
        (b"LIMITS RCPTMAX=1234567", (None, None, None)),
        (b"X-RCPTLIMIT 9", (9, None, None)),
        (b"X-RCPTLIMIT many", (None, None, None)),
    ],
)
def test_limits(line: bytes, limits: tuple[int | None, ...]) -> None:
    found = offers(line)
    assert (found.rcpt_max, found.mail_max, found.rcpt_domain_max) == limits


def test_deliver_by() -> None:
    assert offers(b"DELIVERBY").deliver_by == 0
    assert offers(b"DELIVERBY 240").deliver_by == 240
    assert offers(b"DELIVERBY soon").deliver_by is None
    assert offers(b"DELIVERBY ,").deliver_by is None


def test_auth_in_the_form_of_old_is_joined_to_the_right_one() -> None:
    assert offers(b"AUTH=LOGIN PLAIN", b"AUTH PLAIN CRAM-MD5").auth == ("LOGIN", "PLAIN", "CRAM-MD5")


def test_without_switches_extensions_off() -> None:
    found = offers(b"PIPELINING", b"DSN").without("pipelining")
    assert not found.pipelining
    assert found.dsn


def test_a_thousand_keywords_and_no_more() -> None:
    assert len(offers(*[b"X-%d" % i for i in range(MAX_KEYWORDS)]).keywords) == MAX_KEYWORDS
    with pytest.raises(ReplyError, match="1000"):
        offers(*[b"X-%d" % i for i in range(MAX_KEYWORDS + 1)])


LINE = st.binary(max_size=40) | st.builds(
    lambda words, rest: b" ".join(words) + rest,
    st.lists(
        st.sampled_from(
            [b"SIZE", b"AUTH", b"AUTH=", b"LIMITS", b"DELIVERBY", b"X-RCPTLIMIT", b"DSN", b"RCPTMAX=1", b"9"]
        ),
        max_size=4,
    ),
    st.binary(max_size=6),
)


@settings(deadline=None)
@given(st.lists(LINE, max_size=12))
def test_no_answer_to_ehlo_breaks_the_reader(lines: list[bytes]) -> None:
    found = parse_ehlo(lines)
    assert found.size is None or 0 <= found.size <= MAX_SIZE
    assert all(limit is None or limit > 0 for limit in (found.rcpt_max, found.mail_max, found.rcpt_domain_max))
    assert all(problem.isprintable() for problem in found.problems)
