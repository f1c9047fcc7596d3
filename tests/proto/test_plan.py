import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples
from tests.support.network import content_form

from zsmtp.errors import CommandError
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase
from zsmtp.proto.plan import (
    MAX_RECIPIENTS,
    Envelope,
    EnvelopeRecipient,
    Flow,
    TLSDemand,
    Transaction,
    capacity,
    plan_transaction,
    recipient_refusal,
    sender_refusal,
    size_refusal,
)

EVERYTHING = Capabilities(pipelining=True, size=0, eight_bit_mime=True, dsn=True, smtputf8=True, deliver_by=0)


def plan(
    capabilities: Capabilities, *recipients: EnvelopeRecipient, eight_bit: bool = False, **wishes: object
) -> Transaction:
    chosen = recipients or (EnvelopeRecipient(b"r@example.org"),)
    envelope = Envelope(b"a@example.net", tuple(chosen), **wishes)  # type: ignore[arg-type]
    return plan_transaction(envelope, content_form(eight_bit=eight_bit), capabilities)


def wires(transaction: Transaction) -> list[list[bytes]]:
    return [[step.wire for step in group] for group in transaction.groups]


TWO = (EnvelopeRecipient(b"r@example.org"), EnvelopeRecipient(b"s@example.org"))


def test_with_pipelining_the_envelope_and_data_are_one_group() -> None:
    assert wires(plan(Capabilities(pipelining=True), *TWO)) == [
        [
            b"MAIL FROM:<a@example.net>\r\n",
            b"RCPT TO:<r@example.org>\r\n",
            b"RCPT TO:<s@example.org>\r\n",
            b"DATA\r\n",
        ],
        [b""],
    ]


def test_without_it_every_command_waits_for_the_reply_before() -> None:
    assert [len(group) for group in plan(Capabilities(), *TWO).groups] == [1, 1, 1, 1, 1]


def test_a_chunk_waits_for_the_recipients_to_be_known() -> None:
    groups = wires(plan(Capabilities(pipelining=True, chunking=True), *TWO))
    assert [len(group) for group in groups] == [3, 1]
    assert groups[1] == [b"BDAT 21 LAST\r\n"]


@pytest.mark.parametrize(
    ("pipelining", "flow", "lengths"),
    [
        (True, Flow.STEPWISE, [3, 1]),
        (True, Flow.RIDING, [3, 2]),
        (True, Flow.BLIND, [5]),
        (False, Flow.STEPWISE, [1, 1, 1, 1]),
        (False, Flow.RIDING, [1, 1, 1, 1]),
    ],
)
def test_rset_follows_a_chunk_where_commands_may_follow_content(
    flow: Flow, lengths: list[int], pipelining: bool
) -> None:
    envelope = Envelope(b"a@example.net", TWO)
    capabilities = Capabilities(pipelining=pipelining, chunking=True)
    planned = plan_transaction(envelope, content_form(), capabilities, flow)
    groups = wires(planned)
    assert [len(group) for group in groups] == lengths
    assert planned.confirmed is (groups[-1][-1] == b"RSET\r\n") is (lengths[-1] > 1)


@pytest.mark.parametrize("flow", Flow)
def test_no_rset_follows_data(flow: Flow) -> None:
    planned = plan_transaction(Envelope(b"a@example.net", TWO), content_form(), Capabilities(pipelining=True), flow)
    assert not planned.confirmed
    assert planned.steps[-1].phase is Phase.CONTENT


def test_nothing_is_said_that_was_not_offered() -> None:
    recipient = EnvelopeRecipient(b"r@example.org", b"SUCCESS", b"rfc822;x@example.org", (60, b"R"))
    planned = plan(Capabilities(), recipient, eight_bit=True, ret=b"FULL", envid=b"id")
    assert wires(planned)[:2] == [[b"MAIL FROM:<a@example.net>\r\n"], [b"RCPT TO:<r@example.org>\r\n"]]


def test_everything_wanted_is_said_where_it_is_offered() -> None:
    recipient = EnvelopeRecipient(b"r@example.org", b"SUCCESS", b"rfc822;x@example.org", (60, b"R"))
    group = wires(plan(EVERYTHING, recipient, eight_bit=True, ret=b"FULL", envid=b"id"))[0]
    assert set(group[0].split()) == {
        b"MAIL",
        b"FROM:<a@example.net>",
        b"SIZE=21",
        b"BODY=8BITMIME",
        b"RET=FULL",
        b"ENVID=id",
        b"BY=60;R",
    }
    assert group[1] == b"RCPT TO:<r@example.org> NOTIFY=SUCCESS ORCPT=rfc822;x@example.org\r\n"


def test_body_is_said_only_of_eight_bit_content() -> None:
    assert b"BODY" not in plan(EVERYTHING).steps[0].wire


@pytest.mark.parametrize(("seconds", "least", "said"), [(60, 0, True), (60, 60, True), (59, 60, False), (0, 0, False)])
def test_deliver_by_is_said_while_it_can_be_met(seconds: int, least: int, *, said: bool) -> None:
    planned = plan(Capabilities(deliver_by=least), EnvelopeRecipient(b"r@example.org", deliver_by=(seconds, b"N")))
    assert (b" BY=" in planned.steps[0].wire) is said


def test_an_original_recipient_is_made_from_the_address_and_left_out_if_too_long() -> None:
    dsn = Capabilities(dsn=True)
    assert plan(dsn, EnvelopeRecipient(b"a+b@example.org")).steps[1].wire == (
        b"RCPT TO:<a+b@example.org> ORCPT=rfc822;a+2Bb@example.org\r\n"
    )
    assert plan(dsn, EnvelopeRecipient(b"+" * 200 + b"@example.org")).steps[1].wire.count(b"ORCPT") == 0


def test_an_original_recipient_goes_with_an_internationalised_address_if_it_is_known() -> None:
    dsn = Capabilities(dsn=True)
    address = "a@b\u00fccher.example".encode()
    assert plan(dsn, EnvelopeRecipient(address)).steps[1].wire == b"RCPT TO:<a@xn--bcher-kva.example>\r\n"
    assert plan(dsn, EnvelopeRecipient(address, orcpt=b"rfc822;old@example.org")).steps[1].wire == (
        b"RCPT TO:<a@xn--bcher-kva.example> ORCPT=rfc822;old@example.org\r\n"
    )


def test_an_original_recipient_in_utf8_is_for_servers_that_know_such() -> None:
    recipient = EnvelopeRecipient(b"r@example.org", orcpt=rb"UTF-8;jos\x{E9}@example.org")
    both = Capabilities(dsn=True, smtputf8=True)
    assert (
        plan(both, recipient).steps[1].wire == rb"RCPT TO:<r@example.org> ORCPT=UTF-8;jos\x{E9}@example.org" + b"\r\n"
    )
    assert plan(Capabilities(dsn=True), recipient).steps[1].wire == b"RCPT TO:<r@example.org>\r\n"


def test_smtputf8_is_said_only_if_an_address_needs_it() -> None:
    utf8 = Capabilities(smtputf8=True)
    assert b"SMTPUTF8" not in plan(utf8).steps[0].wire
    international = plan(utf8, EnvelopeRecipient("ä@bücher.example".encode()))
    assert international.steps[0].wire.endswith(b" SMTPUTF8\r\n")
    assert international.steps[1].wire == "RCPT TO:<ä@bücher.example>\r\n".encode()
    full_width = plan(utf8, EnvelopeRecipient("ä@ＢÜＣＨＥＲ。example".encode()))
    assert full_width.steps[1].wire == international.steps[1].wire


def test_without_it_a_domain_goes_in_a_labels() -> None:
    assert plan(Capabilities(), EnvelopeRecipient("a@bücher.example".encode())).steps[1].wire == (
        b"RCPT TO:<a@xn--bcher-kva.example>\r\n"
    )


def refusal_of(address: str | bytes, capabilities: Capabilities) -> str | None:
    octets = address if isinstance(address, bytes) else address.encode()
    refusal = recipient_refusal(EnvelopeRecipient(octets), capabilities)
    return None if refusal is None else str(refusal.status)


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("r@example.org", None),
        ("", "5.1.3"),
        ("r@example.org\r\nDATA", "5.1.3"),
        ("x" * 300, "5.1.3"),
        ("ä@example.org", "5.6.7"),
        ("r@bücher.example", None),
        ("l" * 120 + "@" + ".".join("ü" * 20), "5.1.3"),  # fits as UTF-8, not in A-labels
        (b"\xff@example.org", "5.1.3"),
    ],
)
def test_recipients_refused_on_this_side(address: str | bytes, status: str | None) -> None:
    assert refusal_of(address, Capabilities()) == status


def test_smtputf8_takes_what_ascii_cannot() -> None:
    assert refusal_of("ä@example.org", Capabilities(smtputf8=True)) is None


def test_the_sender_may_be_null_but_not_broken() -> None:
    assert sender_refusal(Envelope(b"", ()), Capabilities()) is None
    refusal = sender_refusal(Envelope(b"a\n@b", ()), Capabilities())
    assert refusal is not None
    assert str(refusal.status) == "5.1.7"


@pytest.mark.parametrize(("limit", "refused"), [(None, False), (0, False), (21, False), (20, True)])
def test_a_message_over_the_limit_of_the_server(limit: int | None, *, refused: bool) -> None:
    assert (size_refusal(content_form(), Capabilities(size=limit)) is not None) is refused


def test_a_plan_for_an_address_that_was_to_be_refused_is_a_misuse() -> None:
    with pytest.raises(CommandError):
        plan(Capabilities(), EnvelopeRecipient("ä@example.org".encode()))


ADDRESSES = st.one_of(
    st.binary(max_size=30),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")),
    st.builds(
        lambda local, domain: f"{local}@{domain}".encode(), st.text("ab", max_size=130), st.text("aü.", max_size=90)
    ),
)
CAPABILITIES = st.builds(
    Capabilities,
    pipelining=st.booleans(),
    size=st.none() | st.integers(0, 100),
    eight_bit_mime=st.booleans(),
    dsn=st.booleans(),
    chunking=st.booleans(),
    smtputf8=st.booleans(),
)


@settings(deadline=None, max_examples=examples(150))
@given(st.lists(ADDRESSES, min_size=1, max_size=4), CAPABILITIES)
def test_what_is_not_refused_can_be_planned(addresses: list[bytes], capabilities: Capabilities) -> None:
    sender = addresses[0] if sender_refusal(Envelope(addresses[0], ()), capabilities) is None else b""
    recipients = tuple(r for r in map(EnvelopeRecipient, addresses) if recipient_refusal(r, capabilities) is None)
    planned = plan_transaction(Envelope(sender, recipients), content_form(), capabilities)
    assert [step.phase for step in planned.steps][: len(recipients) + 1] == [Phase.MAIL] + [Phase.RCPT] * len(
        recipients
    )
    assert [step.recipient for step in planned.steps if step.phase is Phase.RCPT] == list(range(len(recipients)))
    assert [step for group in planned.groups for step in group] == list(planned.steps)
    # RFC 2920 3.1: DATA ends a group; what carries content waits for every reply before it
    for group in planned.groups:
        assert all(step.phase is not Phase.DATA for step in group[:-1])
        assert all(step.phase in (Phase.MAIL, Phase.RCPT, Phase.DATA) for step in group) or len(group) == 1


DOMAINS = st.sampled_from([b"a@one", b"b@ONE", b"c@two", b"d@three"])


@settings(deadline=None)
@given(
    st.lists(DOMAINS, min_size=1, max_size=130),
    st.none() | st.integers(1, 200),
    st.none() | st.integers(1, 5),
)
def test_capacity(addresses: list[bytes], rcpt_max: int | None, domain_max: int | None) -> None:
    recipients = [EnvelopeRecipient(address) for address in addresses]
    count = capacity(recipients, Capabilities(rcpt_max=rcpt_max, rcpt_domain_max=domain_max))

    def fits(n: int) -> bool:
        domains = {address.split(b"@")[1].lower() for address in addresses[:n]}
        return n <= min(MAX_RECIPIENTS, rcpt_max or MAX_RECIPIENTS) and len(domains) <= (domain_max or 1000)

    assert 1 <= count <= len(recipients), "there is always progress"
    assert fits(count)
    assert count == len(recipients) or not fits(count + 1)


def test_requiretls_is_said_to_who_offers_it_and_the_message_to_nobody_else() -> None:
    offered = Capabilities(require_tls=True)
    assert wires(plan(offered, wish=TLSDemand.REQUIRETLS))[0] == [b"MAIL FROM:<a@example.net> REQUIRETLS\r\n"]
    assert wires(plan(offered, wish=TLSDemand.TLS_OPTIONAL))[0] == [b"MAIL FROM:<a@example.net>\r\n"]
    with pytest.raises(CommandError):
        plan(EVERYTHING, wish=TLSDemand.REQUIRETLS)
