"""What the verbs of ``zsmtp queue`` that only read print, at every store."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.queueconsole import Console, environment, on
from tests.queue import harness
from tests.queue.harness import NOON, STORES, Make, new, to

from zsmtp.cli.queue import verb_parser
from zsmtp.client.config import Config, Relay
from zsmtp.queue.filter import FIELDS
from zsmtp.queue.ids import to_text
from zsmtp.queue.operators import SiteStatus
from zsmtp.queue.store import NewRecipient
from zsmtp.text.lines import width_of

LATER = NOON + 60


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    environment(monkeypatch)
    return iter(())


@pytest.fixture(params=STORES.values(), ids=STORES)
def make(request: pytest.FixtureRequest) -> Make:
    store: Make = request.param
    return store


def test_list(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        first, second, third = console.ids
        ran = await console.run("list")
        assert ran.lines == [
            "ID              AGE  NEXT    TRY RECIPIENT                REASON",
            f"{first} 1m   in 4m   1   bob@example.net          451 4.7.1 come back l…",
            f"{second} 59s  in 59m  0   dave@example.com",
            f"{third} 59s  held    0   erin@example.com",
        ]
        assert (await console.run("list --limit 1")).lines == ran.lines[:2]
        assert (await console.run("list domain=example.com state=held")).lines == [ran.lines[0], ran.lines[3]]
        assert (await console.run("list nobody@example.net")).out == ""

    on(make, tmp_path, capsys, scenario)


def test_list_as_json(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        rows = [json.loads(line) for line in (await console.run("list --json")).lines]
        assert [row["recipient"] for row in rows] == ["bob@example.net", "dave@example.com", "erin@example.com"]
        assert rows[0] == {
            "id": console.ids[0],
            "number": 0,
            "recipient": "bob@example.net",
            "sender": "ann@shop.example",
            "key": "example.net",
            "tenant": "acme",
            "state": "due",
            "priority": 0,
            "submitted": NOON,
            "due": NOON + 330,
            "expires": NOON + 5 * 86400,
            "attempts": 1,
            "hold": 0,
            "warned": False,
            "doubtful": False,
            "status": "4.7.1",
            "reason": "451 4.7.1 come back later",
            "size": 21,
            "name": "<1@shop.example>",
            "origin": "smtp 192.0.2.1",
        }
        assert rows[2]["state"] == "held"
        assert rows[2]["priority"] == 3

    on(make, tmp_path, capsys, scenario)


FILTERS = [
    ("bob@example.net", "b"),
    ("example.com", "de"),
    ("--domain example.com", "de"),
    ("--domain 'example.*' --domain '!=example.com'", "b"),
    ("'domain=example.com state=held'", "e"),
    ("--attempts 1", "b"),
    ("--attempts '<1' --state due", "d"),
    ("--due '<10m'", "be"),
    ("--age '>=59s' --age '<2m'", "bde"),
    ("--age '>2m'", ""),
    ("--status '4.7.*'", "b"),
    ("--reason 'come back'", "b"),
    ("'reason=\"come back\"'", "b"),
    ("'reason=come back'", "b"),
    ("--from '<>'", "d"),
    ("--from '!=<>'", "be"),
    ("--name '<1@shop.example>'", "b"),
    ("--from ann@shop.example", "be"),
    ("--to 'd*,erin@example.com'", "de"),
    ("--tenant acme", "b"),
    ("--priority 3", "e"),
    ("--priority '>0'", "e"),
    ("--size '>20'", "bde"),
    ("--size '>21'", ""),
    ("--name '*shop.example>'", "b"),
    ("--origin 'smtp*'", "b"),
    ("--site example.net", "b"),
    ("--key example.net --state due,leased", "b"),
    ("--rule 2147483647", "e"),
    ("bob=x@example.net", ""),
    ("dave@example.com,erin@example.com", ""),
    ("--state held --limit 5 erin@example.com", "e"),
    ("erin@example.com --state held to=erin*", "e"),
]


@pytest.mark.parametrize(("words", "found"), FILTERS, ids=[words for words, _ in FILTERS])
def test_filters(words: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run(f"list --json {words}")
        assert (ran.status, ran.err) == (0, "")
        assert [json.loads(line)["recipient"][0] for line in ran.lines] == list(found)

    on(STORES["memory"], tmp_path, capsys, scenario)


def test_an_id_is_a_filter(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        for words in (console.ids[1].upper(), f"--id {console.ids[1]}", f"id={console.ids[1]}"):
            assert (await console.run(f"count {words}")).out == "1\n"

    on(make, tmp_path, capsys, scenario)


BAD = [
    ("list colour=red", "'colour' is no field"),
    ("list hello", "'hello' is no id, address, domain or term such as age>2h"),
    ("list --age long", "'long' is no duration"),
    ("list --state eaten", "'eaten' is no state"),
    ("list --attempts '>many'", "'many' is no whole number"),
    ("list --id 12345", "'12345' is no message id"),
    ("list 'to=\"bob'", "a quote that does not end"),
    ("list end=failed", "end cannot be asked here"),
    ("ends state=held", "state cannot be asked here"),
    ("ends --age '>1h' due<5", "due cannot be asked here"),
    ('list "to=a\x1b[2J"', "control characters cannot be asked for"),
    ("why", "which? Name an id, an address, a domain or a filter"),
    ("show", "which? Name an id, an address, a domain or a filter"),
    ("attempts", "which? Name an id, an address, a domain or a filter"),
    ("body example.net", "is no message id"),
    ("count --by colour", "argument --by: invalid choice"),
    ("list --limit 0", "not a number from 1"),
    ("top --interval -1", "not a duration that passes"),
    ("top --interval=0", "not a duration that passes"),
]


@pytest.mark.parametrize(("words", "error"), BAD, ids=[words for words, _ in BAD])
def test_bad_words_are_refused(words: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run(words)
        assert (ran.status, ran.out) == (64, "")
        assert error in ran.err
        assert ran.err.count("\n") == 1
        assert "\x1b" not in ran.err

    on(STORES["memory"], tmp_path, capsys, scenario)


def test_count(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        assert (await console.run("count")).out == "3\n"
        assert (await console.run("count --domain example.com")).out == "2\n"
        assert (await console.run("count --by site")).lines == ["2  example.com", "1  example.net"]
        assert (await console.run("count --by tenant")).lines == ["2  (no tenant)", "1  acme"]
        assert (await console.run("count --by state")).lines == ["2  due", "1  held"]
        assert (await console.run("count --by reason --limit 1")).lines == ["2  (no reason)", "1  (1 more group)"]
        assert json.loads((await console.run("count --json")).out) == {
            "schema": "zsmtp.queue-count/1",
            "by": None,
            "total": 3,
        }
        assert json.loads((await console.run("count --json --by age state=due")).out) == {
            "schema": "zsmtp.queue-count/1",
            "by": "age",
            "total": 2,
            "groups": {"<5m": 2},
        }

    on(make, tmp_path, capsys, scenario)


def test_shape(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        console.queue.clock.now = NOON + 3600
        await console.queue.store.submit([new("new@example.net", due=NOON + 3600)])
        await console.queue.store.report(
            [
                SiteStatus(
                    site="example.net",
                    node="node-1",
                    updated=NOON + 3600,
                    dead_until=NOON + 3840,
                    dead_reason="connect to \x1b[31mmx: refused",
                )
            ]
        )
        lines = (await console.run("shape")).lines
        assert lines == [
            "SITE               TOTAL    <5m   <10m   <20m   <40m   <80m    <3h    <6h    >6h",
            "(all)                  4      1      0      0      0      3      0      0      0",
            "example.com            2      0      0      0      0      2      0      0      0",
            "example.net            2      1      0      0      0      1      0      0      0",
            "  does not answer, next probe in 4m: connect to \\x1b[31mmx: refused",
        ]
        assert max(map(len, lines)) <= 80
        console.queue.clock.now += 300
        assert (await console.run("shape")).lines[-1].startswith("  does not answer, a probe is due: connect to")
        console.queue.clock.now -= 300
        assert (await console.run("shape --limit 1")).lines[2:] == [lines[2], "(1 more site)"]
        assert (await console.run("shape state=held")).lines[1:] == [
            "(all)                  1      0      0      0      0      1      0      0      0",
            "example.com            1      0      0      0      0      1      0      0      0",
        ]
        document = json.loads((await console.run("shape --json example.net")).out)
        assert document["schema"] == "zsmtp.queue-shape/1"
        (site,) = document["sites"]
        assert (site["site"], site["total"], site["ages"]["<80m"]) == ("example.net", 2, 1)
        assert site["status"]["dead_until"] == NOON + 3840

    on(make, tmp_path, capsys, scenario)


def test_why(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        assert (await console.run("why bob@example.net")).lines == [
            "waits after a failure (greylisting): attempt 2 at 2025-11-28 12:05:30 (in 4m30s)",
            f"   recipient  bob@example.net, message {console.ids[0]}",
            "   because    Attempt 1 failed at 2025-11-28 12:00:00 (1m ago): 451 4.7.1 come",
            "                back later.",
            "              After attempt 1 the wait is 5m to 6m for failures of this class",
            "                (greylisting).",
            "   next       If attempt 2 fails in the same way, attempt 3 follows after 5m to",
            "                6m by the default schedule.",
            "              The sender is warned of the delay if it is still here at",
            "                2025-11-28 16:00:00 (in 3h59m).",
            "              It is given up at 2025-12-03 12:00:00 (in 5d).",
            "   attempts   1 2025-11-28 12:00:00 deferred: 451 4.7.1 come back later",
        ]
        assert (await console.run(f"why {console.ids[2]}")).lines[0] == "held by an operator's command"
        lines = (await console.run("why example.com")).lines
        assert lines[0].startswith("not to be sent yet: attempt 1 at 2025-11-28 13:00:00")
        assert "held by an operator's command" in lines[lines.index("") + 1]
        ran = await console.run("why example.com --limit 1")
        assert "" not in ran.lines
        assert ran.err == "zsmtp queue why: only the first 1 are shown; --limit shows more\n"

    on(make, tmp_path, capsys, scenario)


def test_why_of_an_end_and_of_nothing(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run("why carol@example.org")
        assert ran.status == 0
        assert ran.lines[0] == "failed at 2025-11-28 12:00:00 (1m ago)"
        assert ran.lines[2] == "   because    The last result: 550 no such user."
        ran = await console.run("why mallory@example.org")
        assert (ran.status, ran.out) == (1, "")
        missing = "no recipient matches, neither in the queue nor among the ends that are kept"
        assert ran.err == f"zsmtp queue why: {missing}\n"
        assert (await console.run("why state=leased")).status == 1

    on(make, tmp_path, capsys, scenario)


def test_why_as_json(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        document = json.loads((await console.run("why bob@example.net --json")).out)
        assert document["schema"] == "zsmtp.queue-why/1"
        (found,) = document["recipients"]
        assert found["id"] == console.ids[0]
        assert (found["constraint"], found["until"], found["others"]) == ("backoff", NOON + 330, [])
        assert [attempt["code"] for attempt in found["attempts"]] == [451]
        assert json.loads((await console.run("why nobody@x.example --json")).out)["recipients"] == []

    on(make, tmp_path, capsys, scenario)


def test_why_tells_the_reason_of_the_route(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        shop = Relay(host="mail.example.org")
        console.delivery = Config(sender_routes={"shop.example": shop})
        await console.queue.store.submit([new(NewRecipient(address=b"zoe@example.org", key=f"relay:{shop.key}"))])
        ran = await console.run("why zoe@example.org")
        assert re.search(r"(?m)route +relay:mail.example.org:25, by the route of the sender's domain$", ran.out)
        console.delivery = Config(routes={"example.org": Relay(host="inside.example")})
        (found,) = json.loads((await console.run("why zoe@example.org --json")).out)["recipients"]
        assert found["route"] == (
            "relay:mail.example.org:25, as it was submitted or rerouted; the configuration now routes such mail to "
            "relay:inside.example:25 (by the route of the recipient's domain)"
        )
        console.delivery = None
        assert "route" not in (await console.run("why zoe@example.org")).out

    on(make, tmp_path, capsys, scenario)


def test_check_names_relays_that_the_configuration_has_lost(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a node says of a site it serves, and what nobody serves now."""

    async def scenario(console: Console) -> None:
        store = console.queue.store
        assert (await console.run("check")).status == 0
        await store.submit([new(NewRecipient(address=b"zoe@example.org", key="relay:a.example:25"))])
        assert (await console.run("check")).out == "nothing is wrong with the queue\n"
        console.delivery = Config(relay=Relay(host="a.example"))
        assert (await console.run("check")).status == 0
        console.delivery = Config(relay=Relay(host="b.example"))
        lost = "mail to relay:a.example:25 waits: no relay a.example:25 is configured any more\n"
        ran = await console.run("check")
        assert (ran.status, ran.out) == (1, lost)
        console.delivery = None
        (node,) = [one.node for one in await store.nodes() if one.alive]
        why = "no relay c.example:25 is configured any more"
        status = SiteStatus(site="relay:c.example:25", node=node, updated=console.queue.now(), no_route=why)
        await store.report([status])
        found = json.loads((await console.run("check --json")).out)["findings"]
        assert found == [f"mail to relay:c.example:25 waits: {why}"]
        await store.report([SiteStatus(site="relay:c.example:25", node="dead", updated=LATER, no_route=why)])
        assert (await console.run("check")).status == 0

    on(make, tmp_path, capsys, scenario)


def test_why_knows_the_site_that_a_key_belongs_to(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(console: Console) -> None:
        store = console.queue.store
        await store.learn({"example.org": "big.example"})
        await store.submit([new("zoe@example.org")])
        await store.report([SiteStatus(site="big.example", node="node-1", updated=LATER, window=2, busy=2, ready=9)])
        lines = (await console.run("why zoe@example.org")).lines
        assert lines[0] == "all 2 connections that big.example may have now are in use"

    on(make, tmp_path, capsys, scenario)


def test_show(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        assert (await console.run("show bob@example.net")).lines == [
            console.ids[0],
            "│  from        ann@shop.example",
            "│  accepted    2025-11-28 12:00:00 (1m ago), smtp 192.0.2.1",
            "│  size        21 octets",
            "│  name        <1@shop.example>",
            "│  tenant      acme",
            "│  recipients  1 of 2 are in the queue",
            "└─ bob@example.net",
            "      state     due, queue key example.net",
            "      next      attempt 2 at 2025-11-28 12:05:30 (in 4m30s)",
            "      given up  2025-12-03 12:00:00",
            "      reason    451 4.7.1 come back later",
        ]
        assert (await console.run("show example.com")).lines.count("") == 1
        await console.queue.store.submit([new(*(f"u{n}@example.jp" for n in range(1003)))])
        lines = (await console.run("show u7@example.jp")).lines
        assert "│  recipients  1003 of 1003 are in the queue" in lines
        assert sum("@example.jp" in line for line in lines) == 1
        assert lines[-1].startswith("└─ (1002 more: zsmtp queue list 0")
        lines = (await console.run("show example.jp")).lines
        assert sum("@example.jp" in line for line in lines) == 1000
        assert lines[-1].startswith("└─ (3 more: zsmtp queue list 0")
        ran = await console.run("show nobody@example.net")
        assert (ran.status, ran.out, ran.err) == (1, "", "zsmtp queue show: nothing matches\n")
        document = json.loads((await console.run(f"show --json {console.ids[2]}")).out)
        (message,) = document["messages"]
        assert (message["id"], message["priority"], message["queued"][0]["state"]) == (console.ids[2], 3, "held")
        assert message["in_queue"] == 1

    on(make, tmp_path, capsys, scenario)


def test_ends_and_attempts(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        assert (await console.run("ends")).lines == [
            "AGO  END       ID              RECIPIENT                 REASON",
            f"59s  failed    {console.ids[0]} carol@example.org         550 no such user",
        ]
        assert (await console.run("ends --end delivered")).out == ""
        (end,) = [json.loads(line) for line in (await console.run("ends --json --status '5.*'")).lines]
        assert (end["outcome"], end["recipient"], end["attempt"]) == ("failed", "carol@example.org", 1)
        named = [
            console.ids[0],
            "├─ 1 2025-11-28 12:00:00 deferred bob@example.net: 451 4.7.1 come back later",
            "└─ 1 2025-11-28 12:00:00 failed carol@example.org: 550 no such user",
        ]
        assert (await console.run("attempts bob@example.net")).lines == named
        assert (await console.run("attempts carol@example.org")).lines == named
        assert (await console.run("attempts dave@example.com")).lines == [
            console.ids[1],
            "└─ no attempt was made, or its history was removed",
        ]
        assert (await console.run("attempts x@example.com")).status == 1
        lines = (await console.run(f"attempts --json {console.ids[0]}")).lines
        assert [json.loads(line)["outcome"] for line in lines] == ["deferred", "failed"]

    on(make, tmp_path, capsys, scenario)


def test_body(make: Make, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    content = b"Subject: x\r\n\r\n" + bytes(range(256)) + b"y" * 300_000

    async def scenario(console: Console) -> None:
        (accepted,) = await console.queue.store.submit([new(content=content)])
        number = to_text(accepted.id)
        capsysbinary.readouterr()
        ran = await console.run(f"body {number}")
        assert ran.status == 0
        assert ran.out == content.decode("latin-1")
        document = json.loads((await console.run(f"body --json {number}")).out)
        assert base64.b64decode(document.pop("base64")) == content
        assert document == {"schema": "zsmtp.queue-body/1", "id": number, "size": len(content)}
        assert (await console.run("body 000000000000000")).status == 1

    on(make, tmp_path, capsysbinary, scenario, fill=False)  # type: ignore[arg-type]


def test_a_body_on_a_terminal_cannot_take_it_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(console: Console) -> None:
        (accepted,) = await console.queue.store.submit([new(content=b"Subject: \x1b[2J\r\n\r\n\ttab \xff\nno end\x07")])
        monkeypatch.setattr("zsmtp.cli.queuereading.is_terminal", lambda stream: True)
        ran = await console.run(f"body {to_text(accepted.id)}")
        assert ran.out == "Subject: \\x1b[2J\n\n\ttab \\xff\nno end\\x07\n"

    on(STORES["memory"], tmp_path, capsys, scenario, fill=False)


def test_hostile_words_are_escaped(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Addresses, replies, names and tenants: nothing reaches a terminal that it would take for a command."""
    evil = "\x1b[2J\u202e\r\nx"

    async def scenario(console: Console) -> None:
        store = console.queue.store
        message = new(
            to(f"{evil}@example.net", "example.net"),
            sender=f"{evil}@shop.example".encode(),
            tenant=evil,
            name=evil,
            origin=evil,
            options={"note": evil},
        )
        await store.submit([message])
        await store.join("node-1")
        lease = await harness.lease_of(store, "example.net")
        (one,) = await harness.claim(store, lease, NOON)
        entry = harness.entry(one.recipient, harness.Outcome.DEFERRED, NOON, code=451, reason=evil, server=evil)
        put_off = harness.Deferred(one.recipient.next_attempt, NOON + 400, entry, "4.0.0", evil)
        assert not await store.settle(lease, [put_off], ())
        for verb in ("list", "count --by tenant", "count --by reason", "shape", "show", "why", "attempts", "top"):
            words = "" if verb.startswith(("count", "top")) else " example.net"
            ran = await console.run(verb + words)
            assert (ran.status, ran.err) == (0, "")
            assert ran.out
            assert all(character.isprintable() or character == "\n" for character in ran.out), verb
            json_words = (await console.run(f"{verb}{words} --json")).out
            assert all(character.isprintable() or character == "\n" for character in json_words), verb
        assert (await console.run("fail example.net --yes")).status == 0
        ran = await console.run("ends")
        assert all(character.isprintable() or character == "\n" for character in ran.out)

    on(make, tmp_path, capsys, scenario, fill=False)


def test_lines_fit_into_80_columns(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        store = console.queue.store
        long = "x" * 60
        await store.submit([new(to(f"{long}@{long}.example", f"{long}.example"), tenant=long * 3)])
        await store.submit([new(to("日本語" * 20 + "@example.jp", "example.jp"))])
        for verb in ("list", "shape", "count --by site", "count --by tenant", "top", "show age>=0", "why age>=0"):
            ran = await console.run(verb)
            assert ran.status == 0
            assert max(map(width_of, ran.lines)) <= 80, verb

    on(make, tmp_path, capsys, scenario)


def test_top(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        await console.queue.store.report(
            [SiteStatus(site="example.net", node="node-1", updated=LATER, window=5, busy=5, ready=3)]
        )
        lines = (await console.run("top")).lines
        assert lines[0] == "2025-11-28 12:01:00  3 recipients: 2 to be tried, 1 held"
        assert lines[1] == "in all: accepted 4, deferred 1, failed 1"
        assert lines[2].startswith("delivers: node-1 on ")
        assert lines[-2:] == [
            "example.com                             2",
            "example.net                             1     5/5  all 5 connections in use",
        ]
        document = json.loads((await console.run("top --json --limit 1")).out)
        assert document["states"] == {"due": 2, "held": 1}
        assert document["counters"]["accepted"] == 4
        assert [site["site"] for site in document["sites"]] == ["example.com"]
        assert document["nodes"][0]["alive"]

    on(make, tmp_path, capsys, scenario)


def test_top_redraws_on_a_terminal_until_it_is_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsmtp.cli.queuereading.is_terminal", lambda stream: True)

    async def scenario(console: Console) -> None:
        looks = 0

        async def sleep(seconds: float) -> None:
            nonlocal looks
            assert seconds == 5
            looks += 1
            console.queue.clock.now += seconds
            if looks == 2:
                raise asyncio.CancelledError
            await console.queue.store.submit([new(), new()])

        with monkeypatch.context() as patched:
            patched.setattr("zsmtp.cli.queuereading.asyncio.sleep", sleep)
            ran = await console.run("top --interval 5")
        assert ran.status == 0
        _, first, second = ran.out.split("\x1b[H\x1b[J")
        assert "now:" not in first
        assert "now: accepted 0.4/s" in second

    on(STORES["memory"], tmp_path, capsys, scenario)


def test_check(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run("check")
        assert (ran.status, ran.out) == (0, "nothing is wrong with the queue\n")

        async def findings(self: object):  # type: ignore[no-untyped-def]
            yield "message 00x has no \x1bcontent"

        with monkeypatch.context() as patched:
            patched.setattr(type(console.queue.store), "check", findings)
            ran = await console.run("check")
            assert (ran.status, ran.out) == (1, "message 00x has no \\x1bcontent\n")
            ran = await console.run("check --json")
            assert ran.status == 1
            assert json.loads(ran.out)["findings"] == ["message 00x has no \x1bcontent"]

    on(make, tmp_path, capsys, scenario)


def test_the_filter_language_has_an_option_for_every_field() -> None:
    for verb in ("list", "why", "count", "shape", "show", "attempts", "now", "hold", "drop"):
        known = {name for action in verb_parser(verb)._actions for name in action.option_strings}
        assert {f"--{word}" for word in FIELDS if word != "end"} <= known, verb
