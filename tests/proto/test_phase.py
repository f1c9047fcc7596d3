import pytest

from zsmtp.proto.phase import FINAL_PHASES, RULES, Phase, ReplyMeaning, Timeouts, Wait, judge


def test_every_phase_has_its_row_and_every_wait_its_time() -> None:
    assert set(RULES) == set(Phase)
    assert all(rule.words for rule in RULES.values())
    assert all(Timeouts().of(wait) > 0 for wait in Wait)


SUCCESS = {  # RFC 5321 4.3.2: a code that is not listed counts by its first digit, but for the three that follow
    Phase.STARTTLS: {220},
    Phase.CONTENT: set(range(250, 260)),
    Phase.LAST: set(range(250, 260)),
    Phase.AUTH: set(range(200, 400)),
    Phase.DATA: set(range(300, 400)),
    Phase.GREETING: set(range(200, 300)),
    Phase.EHLO: set(range(200, 300)),
    Phase.HELO: set(range(200, 300)),
    Phase.LHLO: set(range(200, 300)),
    Phase.MAIL: set(range(200, 300)),
    Phase.RCPT: set(range(200, 300)),
    Phase.BDAT: set(range(200, 300)),
    Phase.RSET: set(range(200, 300)),
    Phase.NOOP: set(range(200, 300)),
    Phase.QUIT: set(range(200, 300)),
}


@pytest.mark.parametrize("phase", Phase)
def test_what_every_code_means_in_every_phase(phase: Phase) -> None:
    good = SUCCESS[phase]
    for code in range(200, 600):
        if code >= 500:
            expected = ReplyMeaning.PERMANENT
        elif code >= 400:
            expected = ReplyMeaning.TRANSIENT
        else:
            expected = ReplyMeaning.SUCCESS if code in good else ReplyMeaning.DISORDER
        assert judge(phase, code) is expected, code


@pytest.mark.parametrize(
    ("phase", "codes"),
    [(Phase.STARTTLS, "220"), (Phase.CONTENT, "250-259"), (Phase.DATA, "3xx"), (Phase.AUTH, "2xx or 3xx")],
)
def test_the_codes_in_words(phase: Phase, codes: str) -> None:
    assert RULES[phase].codes == codes


@pytest.mark.parametrize(
    ("phase", "wait"),
    [
        (Phase.GREETING, Wait.COMMAND),
        (Phase.MAIL, Wait.COMMAND),
        (Phase.DATA, Wait.DATA),
        (Phase.CONTENT, Wait.FINAL),
        (Phase.LAST, Wait.FINAL),
        (Phase.RSET, Wait.SHORT),
        (Phase.NOOP, Wait.SHORT),
        (Phase.QUIT, Wait.QUIT),
    ],
)
def test_how_long_is_waited_for_what(phase: Phase, wait: Wait) -> None:
    assert RULES[phase].wait is wait


def test_final_phases_are_those_that_hand_the_message_over() -> None:
    assert {Phase.CONTENT, Phase.LAST} == FINAL_PHASES


def test_each_kind_of_wait_has_a_time_of_its_own() -> None:
    timeouts = Timeouts(command=1, data=2, final=3, short=4, quit=5)
    assert [timeouts.of(wait) for wait in Wait] == [1, 2, 3, 4, 5]
