"""What operators see of a site that several nodes serve: each of them, and their sum where there is one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.queueconsole import Console, environment, on
from tests.queue.harness import NOON, MemoryHarness, lease_of, new

from zsmtp.cli.queuejson import statuses_document
from zsmtp.cli.queuetext import site_lines, site_trouble
from zsmtp.queue.operators import SiteStatus, combined, of_message
from zsmtp.queue.slots import ALL, has
from zsmtp.records import replace
from zsmtp.text.look import Look

LOW, HIGH = 0x00FF, 0xFF00
ONE = SiteStatus(site="example.com", node="mx1", updated=NOON + 50, window=10, busy=10, ready=40, slots=LOW)
TWO = SiteStatus(site="example.com", node="mx2", updated=NOON + 58, window=8, busy=3, slots=HIGH)
DEAD = replace(TWO, window=0, busy=0, dead_until=NOON + 120, dead_reason="connection refused")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    environment(monkeypatch)
    return iter(())


def test_a_message_is_its_owners() -> None:
    for message in range(50):
        assert of_message([ONE, TWO], message) == (ONE if has(LOW, message) else TWO)
        before = replace(ONE, node="gone", updated=NOON, slots=ALL)
        assert of_message([before, ONE, TWO], message) == (ONE if has(LOW, message) else TWO)
    assert of_message([], 1) is None


def test_the_parts_of_a_site_add_up() -> None:
    both = combined([ONE, TWO])
    assert (both.node, both.window, both.busy, both.ready, both.slots) == ("mx1, mx2", 18, 13, 40, ALL)
    assert combined([ONE]) == ONE
    assert site_trouble(combined([ONE, DEAD]), NOON + 60).startswith("does not answer, next probe in 1m")
    for worse, better in ((replace(ONE, no_route="no relay"), DEAD), (DEAD, replace(ONE, rate_until=NOON + 70))):
        assert combined([better, worse]).problem_rank == worse.problem_rank > better.problem_rank


def test_a_line_for_the_site_and_one_for_each_node() -> None:
    lines = list(site_lines([("example.com", 90), ("example.net", 4)], {"example.com": [ONE, DEAD]}, NOON + 60, Look()))
    assert lines[1:] == [
        "SITE                                TOTAL    USED  STATE",
        "example.com                            90   10/10  does not answer, next probe…",
        "  mx1, 8 of 16 slots                        10/10  all 10 connections in use",
        "  mx2, 8 of 16 slots                          0/0  does not answer, next probe…",
        "example.net                             4",
    ]


def test_as_json() -> None:
    document = statuses_document([ONE, TWO])
    assert document["status"]["window"] == 18
    assert [(part["node"], part["slots"], part["busy"]) for part in document["parts"]] == [
        ("mx1", 8, 10),
        ("mx2", 8, 3),
    ]
    assert statuses_document([ONE])["parts"] == []
    assert statuses_document([]) == {"status": None, "parts": []}


def test_verbs_show_both_owners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        store = console.queue.store
        second = await console.queue.another()
        await second.join("mx2")
        lease = await lease_of(store, "example.com")
        assert await store.shed(lease, HIGH) is not None
        await second.take(["example.com"], limit=1)
        (first,) = [node.node for node in await store.nodes() if node.node != "mx2"]
        await store.report([replace(ONE, node=first)])
        await second.report([TWO])
        lines = (await console.run("top")).lines
        assert [line.split() for line in lines if "slots" in line] == [
            ["mx2,", "8", "of", "16", "slots", "3/8"],
            [f"{first},", "8", "of", "16", "slots", "10/10", "all", "10", "connections", "in", "use"],
        ]
        document = json.loads((await console.run("shape --json")).out)
        (site,) = [site for site in document["sites"] if site["site"] == "example.com"]
        assert [part["node"] for part in site["parts"]] == ["mx2", first]
        await store.submit([new("zoe@example.com")])
        explained = await console.run("why zoe@example.com")
        assert "of the 16 slots of example.com, and this recipient" in " ".join(explained.out.split())
        await second.close()

    on(lambda folder: MemoryHarness(), tmp_path, capsys, scenario)
