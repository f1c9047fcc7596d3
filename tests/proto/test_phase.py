import pytest

from zsmtp.proto.phase import FINAL_PHASES, RULES, Phase, Result, Timeouts, Wait, judge


def test_every_phase_has_its_row_and_every_wait_its_time() -> None:
    assert set(RULES) == set(Phase)
    assert all(rule.words for rule in RULES.values())
    assert all(Timeouts().of(wait) > 0 for wait in Wait)


SUCCESS = {
    Phase.STARTTLS: {220},
    Phase.AUTH: {235, 334},
    Phase.GREETING: {220},
    Phase.RCPT: {250, 251, 252},
    Phase.DATA: {354},
}


@pytest.mark.parametrize("phase", Phase)
def test_only_the_codes_of_the_phase_are_a_success(phase: Phase) -> None:
    for code in range(200, 600):
        good = SUCCESS.get(phase, set(range(200, 300)))
        if code >= 500:
            expected = Result.PERMANENT
        elif code >= 400:
            expected = Result.TRANSIENT
        else:
            expected = Result.SUCCESS if code in good else Result.DISORDER
        assert judge(phase, code) is expected, code


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
