import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.proto.phase import Phase
from zsmtp.proto.status import EnhancedStatus, default_status, given_status, without_status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (250, "2.0.0"),
        (354, "2.0.0"),
        (421, "4.3.2"),
        (450, "4.2.1"),
        (452, "4.3.1"),
        (455, "4.5.4"),
        (499, "4.0.0"),
        (500, "5.5.1"),
        (501, "5.5.2"),
        (502, "5.5.1"),
        (504, "5.5.4"),
        (550, "5.1.1"),
        (551, "5.1.6"),
        (552, "5.2.3"),
        (553, "5.1.3"),
        (554, "5.0.0"),
        (555, "5.5.4"),
        (556, "5.1.10"),
        (521, "5.3.2"),
        (530, "5.7.0"),
        (571, "5.7.1"),
        (599, "5.0.0"),
    ],
)
def test_the_nearest_status_for_an_answer_to_rcpt_without_one(code: int, status: str) -> None:
    assert str(default_status(code, Phase.RCPT)) == status


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.RCPT])
def test_a_refusal_that_is_about_no_mailbox_blames_none(phase: Phase) -> None:
    """Subjects 1 and 2 of RFC 3463 speak of an address and a mailbox: only the answer to RCPT is about one."""
    for code in range(400, 600):
        assert default_status(code, phase).subject not in (1, 2), code
    assert str(default_status(552, phase)) == "5.3.4", "what is too large is the message (RFC 1870 6.1)"
    assert str(default_status(550, phase)) == str(default_status(554, phase)) == "5.0.0"


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        (550, b"5.7.1 no", EnhancedStatus(5, 7, 1)),
        (550, b"5.7.1", EnhancedStatus(5, 7, 1)),
        (250, b"2.1.5 ok", EnhancedStatus(2, 1, 5)),
        (550, b"5.123.999 x", EnhancedStatus(5, 123, 999)),
        (550, b"4.7.1 contradicts the code", None),
        (450, b"5.7.1 contradicts the code", None),
        (550, b"5.7.1x", None),
        (550, b" 5.7.1 x", None),
        (550, b"no 5.7.1", None),
        (550, b"5.7", None),
        (550, b"5.7.1000 x", None),
        (550, b"", None),
        (354, b"3.0.0 x", None),
    ],
)
def test_a_status_in_the_text_counts_if_it_agrees(code: int, text: bytes, status: EnhancedStatus | None) -> None:
    assert given_status(code, (text,)) == status


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((b"5.7.1 no", b"5.7.1 go away"), "5.7.1"),
        ((b"5.7.1 no", b"go away"), "5.7.1"),
        ((b"no", b"5.7.1 go away"), "5.7.1"),
        ((b"5.7.1 no", b"5.2.2 go away"), "5.2.2"),
        ((b"5.7.1 no", b"4.2.2 go away"), "5.7.1"),
        ((b"no", b"5.7.1 go", b"away"), "None"),
    ],
)
def test_of_several_lines_the_last_one_or_the_first_one_has_it(lines: tuple[bytes, ...], status: str) -> None:
    assert str(given_status(550, lines)) == status


@pytest.mark.parametrize(
    ("text", "rest"),
    [(b"5.7.1 no", b"no"), (b"5.7.1", b""), (b"5.7.1  no", b"no"), (b"5.7.1no", b"5.7.1no"), (b"", b"")],
)
def test_the_text_without_its_status(text: bytes, rest: bytes) -> None:
    assert without_status(text) == rest


@pytest.mark.parametrize("text", ["", "5", "5.1", "3.1.1", "5.1.1 ", "5.1.1\n", "5.1.1.1", "5.1234.1", "٥.1.1"])
def test_only_a_status_code_is_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match="not an enhanced status code"):
        EnhancedStatus.parse(text)


@settings(deadline=None)
@given(st.sampled_from([2, 4, 5]), st.integers(0, 999), st.integers(0, 999))
def test_status_codes_survive_the_round_trip(cls: int, subject: int, detail: int) -> None:
    status = EnhancedStatus(cls, subject, detail)
    assert EnhancedStatus.parse(str(status)) == status


@settings(deadline=None)
@given(st.integers(200, 599), st.sampled_from(Phase))
def test_the_class_never_contradicts_the_reply_code(code: int, phase: Phase) -> None:
    assert default_status(code, phase).cls == (code // 100 if code >= 400 else 2)
