"""What the pages draw from the code: it is drawn from the code, and would be missed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drawn import diagram, references, tables
from drawn.sessions import Order, orders
from zsmtp.cli.sysexits import Exit
from zsmtp.proto.phase import Phase
from zsmtp.queue.notices import Automatic
from zsmtp.queue.schedule import FailureClass, RetryPolicy
from zsmtp.queue.states import State

ROOT = Path(__file__).parents[2]
PROMISES = (ROOT / "docs/topics/queue.rst").read_text()


@pytest.fixture(scope="module")
def order() -> Order:
    return orders()


def test_sessions_go_all_ways_there_are(order: Order) -> None:
    met = {phase for pair in order.waited | order.ran_ahead for phase in pair}
    assert met == set(Phase) - {Phase.BDAT}


def test_what_runs_ahead_does_and_what_must_wait_waits(order: Order) -> None:
    assert {(Phase.MAIL, Phase.RCPT), (Phase.RCPT, Phase.DATA), (Phase.CONTENT, Phase.MAIL)} <= order.ran_ahead
    for pair in ((Phase.DATA, Phase.CONTENT), (Phase.STARTTLS, Phase.EHLO), (Phase.AUTH, Phase.MAIL)):
        assert pair in order.waited - order.ran_ahead


def test_a_phase_without_a_place_stops_the_build(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagram.picture(order).count("<rect") == len(Phase)
    monkeypatch.delitem(diagram.PLACES, Phase.NOOP)
    with pytest.raises(LookupError, match="NOOP"):
        diagram.picture(order)


def test_tables_have_a_row_for_everything() -> None:
    assert tables.phase_table().count("   * - ") == 1 + len(Phase)
    assert tables.exit_table().count("   * - ") == 1 + len(Exit)
    verdicts = tables.verdict_table()
    assert "     - delivered\n" in verdicts
    assert verdicts.count("     - deferred\n") >= 12


def test_tables_of_the_queue_have_a_row_for_every_member_and_every_member_its_words() -> None:
    retries = tables.retry_table()
    assert retries.count("   * - ") == 1 + len(FailureClass)
    assert all(f"     - ``{schedule}``\n" in retries for schedule in RetryPolicy().schedules.values())
    assert set(tables.members(FailureClass)) == set(FailureClass.__members__)
    assert tables.automatic_table().count("   * - ") == 1 + len(Automatic)
    rows = tables.notify_table().split("   * - ")
    assert [row.split() for row in rows[2:4]] == [
        ["nothing", "-", "yes", "-", "yes", "-", "no", "-", "no", "-", "no"],
        ["``NEVER``", "-", "no", "-", "no", "-", "no", "-", "no", "-", "no"],
    ]


@pytest.mark.parametrize("name", tables.TLS_TABLES)
def test_no_row_about_tls_is_weaker_than_what_was_configured(name: str) -> None:
    rows = tables.TLS_TABLES[name]().split("   * - ")[2:]
    assert rows
    for row in rows:
        configured, *cells = row.splitlines()
        for strong in ("``encrypt``", "``secure``", "``fingerprint``", "``dane-only``"):
            if configured.startswith(strong) and name != "levels":
                assert not any("``may``" in cell or "``none``" in cell for cell in cells)


def test_a_name_that_leads_nowhere_is_not_found() -> None:
    assert references.exists("zsmtp.proto.session.Session.transact")
    assert references.exists("zsmtp.delivery.outcome.Verdict.fate")
    assert not references.exists("zsmtp.proto.session.Session.teleport")
    assert not references.exists("zsmtp.no_such_room.at_all")


def test_every_state_of_a_recipient_is_told() -> None:
    assert tables.state_table().count("   * - ") == 1 + len(State)


def test_every_promise_of_the_queue_names_tests_that_are_there() -> None:
    promises = re.split(r"(?m)^\d+\. ", PROMISES)[1:]
    assert len(promises) == 12
    for promise in promises:
        named = re.findall(r":test:`([\w/]+\.py)(?:::(\w+))?`", promise)
        assert named, promise
        for file, name in named:
            text = (ROOT / file).read_text()
            assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), (file, name)
