"""What somebody with a folder of messages meets in ``zsmtp send``; each test is named after its point."""

from __future__ import annotations

import json
import mailbox
from collections import Counter

import pytest
from tests.support.nameserver import NameServer, Zone
from tests.support.newcomer import Newcomer, letter
from tests.support.script import Script, Step
from tests.support.sink import Sink


def arrived(sink: Sink) -> Counter[str]:
    """How often each recipient's message was taken."""
    return Counter({to.decode(): count for to, count in sink.deliveries().items()})


def test_h2_a_second_run_sends_the_rest_and_nobody_gets_it_twice(newcomer: Newcomer) -> None:
    files = newcomer.letters(10)
    half = Script(replies={"RCPT": (*[Step("250 ok")] * 4, Step("451 4.3.0 not now"))})
    with Sink(half, Script()) as sink:
        command = ("send", "--journal", "journal", "--relay", f"127.0.0.1:{sink.port}", *files)
        first = newcomer.zsmtp(*command)
        assert first.status == 75
        assert 0 < len(arrived(sink)) < 10
        second = newcomer.zsmtp(*command)
        third = newcomer.zsmtp(*command)
    assert second.status == third.status == 0
    assert third.out.splitlines()[-1] == "earlier: 10 delivered"
    assert arrived(sink) == Counter(f"r{number}@example.net" for number in range(10))


def test_h2_results_come_line_by_line_and_names_from_a_list(newcomer: Newcomer) -> None:
    (newcomer.folder / "list").write_text("\n".join(newcomer.letters(5)) + "\n")
    with Sink() as sink:
        done = newcomer.zsmtp("send", "--jsonl", "--relay", f"127.0.0.1:{sink.port}", "--files-from", "list")
    assert done.status == 0
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert sorted(line["recipient"] for line in lines) == [f"r{number}@example.net" for number in range(5)]
    assert all(line["fate"] == "delivered" and line["reason"] for line in lines)


def test_h2_deferred_recipients_are_tried_again_while_it_runs(newcomer: Newcomer) -> None:
    (file,) = newcomer.letters(1)
    with Sink(Script(replies={"RCPT": (Step("451 4.3.0 not now"), Step("250 ok"))})) as sink:
        done = newcomer.zsmtp("send", "--retry-for", "1s", "--relay", f"127.0.0.1:{sink.port}", file)
    assert (done.status, done.out.split()[0]) == (0, "delivered")
    assert arrived(sink) == Counter(["r0@example.net"])


def test_m1_every_host_has_its_word(newcomer: Newcomer) -> None:
    """The block list is what one must hear of, although the others cannot be reached."""
    (file,) = newcomer.letters(1)
    zone: Zone = {
        "example.net": {"MX": tuple(f"{n} m{n}.example.net." for n in (1, 2, 3))},
        **{f"m{n}.example.net": {"A": (f"127.0.0.{10 + n}",)} for n in (1, 2, 3)},
    }
    listed = Script(banner=Step("554 5.7.1 your address is on a block list"))
    with NameServer(zone) as dns, Sink(listed, host="127.0.0.11") as sink:
        done = newcomer.zsmtp("send", f"--resolver={dns.address}", f"--port={sink.port}", file)
    assert done.status == 75
    (line,) = done.out.splitlines()
    assert line.endswith(
        f"m1.example.net [127.0.0.11]:{sink.port}: 554 5.7.1 your address is on a block list; "
        f"connect to m2.example.net [127.0.0.12]:{sink.port}, m3.example.net [127.0.0.13]:{sink.port}: "
        "Connection refused (4.4.1)"
    )


def test_m2_all_that_cannot_be_sent_is_named_and_the_others_go_on_request(newcomer: Newcomer) -> None:
    mix = newcomer.folder / "mix"
    newcomer.letters(3, "mix")
    for name in ("bad1", "bad2", "bad3"):
        (mix / f"{name}.eml").write_bytes(b"no header at all\n")
    files = sorted(f"mix/{path.name}" for path in mix.iterdir())
    with Sink() as sink:
        where = ("--relay", f"127.0.0.1:{sink.port}")
        refused = newcomer.zsmtp("send", *where, *files)
        assert (refused.status, arrived(sink)) == (65, Counter())
        assert all(f"mix/{name}.eml" in refused.err for name in ("bad1", "bad2", "bad3"))
        going_on = newcomer.zsmtp("send", "--keep-going", *where, *files)
    assert going_on.status == 65
    assert len(arrived(sink)) == 3


def test_m5_a_missing_secret_is_one_error_before_anything_is_sent(newcomer: Newcomer) -> None:
    files = newcomer.letters(3)
    with Sink() as sink:
        done = newcomer.zsmtp(
            "send", "--relay", f"127.0.0.1:{sink.port}", "--user", "ann", "--password-env", "NOPE", *files
        )
    assert done.status == 78
    assert done.err == "zsmtp send: the secret for ann: the environment variable NOPE is empty\n"
    assert not sink.connections


@pytest.mark.parametrize(
    ("verb", "reply", "status", "fate"),
    [
        ("MAIL", "530 5.7.0 Authentication required", "5.7.0", "deferred"),
        ("RCPT", "554 5.7.1 your address is on a block list", "5.7.1", "refused"),
        ("DOT", "554 5.7.1 spam", "5.7.1", "refused"),
    ],
)
def test_m11_status_and_reply_agree(newcomer: Newcomer, verb: str, reply: str, status: str, fate: str) -> None:
    """Also where the server did not offer ENHANCEDSTATUSCODES; a relay that wants a login keeps mail waiting."""
    (file,) = newcomer.letters(1)
    with Sink(Script(replies={verb: (Step(reply),)})) as sink:
        done = newcomer.zsmtp("send", "--relay", f"127.0.0.1:{sink.port}", "--jsonl", file)
        shown = newcomer.zsmtp("send", "--relay", f"127.0.0.1:{sink.port}", file)
    assert json.loads(done.out)["status"][1:] == status[1:]
    assert shown.out.startswith(f"{fate} ")
    assert reply in shown.out


@pytest.mark.parametrize("kind", ["folder", "Maildir", "mbox"])
def test_m14_folders_and_mailboxes_are_sent(newcomer: Newcomer, kind: str) -> None:
    where = newcomer.folder / kind
    if kind == "folder":
        newcomer.letters(2, kind)
    else:
        box = mailbox.Maildir(where) if kind == "Maildir" else mailbox.mbox(where)
        for number in range(2):
            box.add(letter(f"r{number}@example.net"))
        box.close()
    with Sink() as sink:
        done = newcomer.zsmtp("send", "--relay", f"127.0.0.1:{sink.port}", kind)
    assert (done.status, done.err) == (0, "")
    assert arrived(sink) == Counter(["r0@example.net", "r1@example.net"])


def test_m17_date_and_message_id_are_added(newcomer: Newcomer) -> None:
    (newcomer.folder / "x.eml").write_bytes(b"Subject: x\n\nhi\n")
    with Sink() as sink:
        command = ("send", "--relay", f"127.0.0.1:{sink.port}", "--from=a@example.org", "--to=b@example.net", "x.eml")
        assert newcomer.zsmtp(*command).status == 0
        assert newcomer.zsmtp(*command, "--no-add").status == 0
    first, second = (transaction.content for transaction in sink.transactions)
    assert b"\r\nDate: " in b"\r\n" + first
    assert b"\r\nMessage-ID: <" in b"\r\n" + first
    assert second == b"Subject: x\r\n\r\nhi\r\n"


def test_m16_a_quiet_day_is_no_error_and_a_missing_folder_is_named(newcomer: Newcomer) -> None:
    (newcomer.folder / "tlsrpt.2026-01-31").write_bytes(b"")
    quiet = newcomer.zsmtp("tlsrpt", "--domain", "example.net", "--day", "2026-01-30", "tlsrpt")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")
    missing = newcomer.zsmtp(
        "tlsrpt", "--domain", "example.net", "--day", "2026-01-31", "--output", "reports", "tlsrpt"
    )
    assert (missing.status, missing.err) == (73, "zsmtp tlsrpt: --output reports: there is no such folder\n")


def test_low_a_secret_that_all_can_read_is_warned_of(newcomer: Newcomer) -> None:
    (file,) = newcomer.letters(1)
    secret = newcomer.folder / "secret"
    secret.write_text("geheim\n")
    secret.chmod(0o644)
    with Sink() as sink:
        done = newcomer.zsmtp(
            "send", "--relay", f"127.0.0.1:{sink.port}", "--user", "ann", "--password-file", "secret", file
        )
    assert "secret: every user of this machine can read this secret" in done.err
