"""``zsmtp send --jobs``: the same as by one process, whatever becomes of those that send."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.nameserver import NameServer, Zone
from tests.support.patience import wait_until
from tests.support.receiver import Receiver, receiving
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

import zsmtp.cli.send
from zsmtp.cli.main import main
from zsmtp.cli.progress import ProgressDisplay

DOMAINS = tuple(f"d{number}.example" for number in range(4))
ZONE: Zone = {domain: {"A": ("127.0.0.1",)} for domain in DOMAINS}

Run = Callable[..., tuple[int, str, str]]
Direct = Callable[[Receiver | Sink], tuple[str, ...]]


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer(ZONE) as server:
        yield server


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Eight messages, two to each domain."""
    folder = tmp_path / "out"
    folder.mkdir()
    for number in range(8):
        write(folder / f"{number}.eml", number, f"r{number}@{DOMAINS[number % 4]}")
    return folder


def write(path: Path, number: object, to: str) -> Path:
    path.write_text(f"From: me@example.org\nTo: {to}\nSubject: {number}\n\nHello {number}.\n")
    return path


@pytest.fixture
def direct(dns: NameServer, tmp_path: Path) -> Direct:
    """The options for mail that goes straight to the domains of the zone, and to a server's port there."""
    config = tmp_path / "zsmtp.toml"
    config.write_text('[direct]\ndane = false\nmta_sts = "off"\n')

    def options(server: Receiver | Sink) -> tuple[str, ...]:
        return "--config", str(config), "--resolver", dns.address, "--port", str(server.port)

    return options


def got(receiver: Receiver) -> Counter[str]:
    return Counter(to for message in receiver.messages for to in message.rcpt_tos)


def lines(out: str) -> list[str]:
    """The lines of results without the number that the receiver gives a message, and the last one."""
    *results, last = out.splitlines()
    return [*sorted(re.sub(r" as \d+$", "", line) for line in results), last]


def test_the_same_is_told_as_by_one_process(send: Run, out: Path, direct: Direct) -> None:
    with receiving() as receiver:
        receiver.refuse.add("r3@d3.example")
        words = (*direct(receiver), out)
        one = send(*words)
        several = send("--jobs", 3, *words)
    assert (several[0], lines(several[1])) == (69, lines(one[1]))
    assert several[1].splitlines()[-1] == "7 delivered, 1 refused"
    assert several[2] in ("", one[2])
    assert got(receiver) == {f"r{n}@{DOMAINS[n % 4]}": 2 for n in range(8) if n != 3}


def test_a_warning_of_several_processes_is_told_once(out: Path, dns: NameServer) -> None:
    with receiving() as receiver:
        done = command("--jobs", 2, "--resolver", dns.address, "--port", receiver.port, out)
    assert done.returncode == 0
    assert done.stderr == (
        "zsmtp send: there is no DANE: the name servers do not validate DNSSEC, or are not trusted\n"
    )


def test_json_of_all_processes_together(send: Run, out: Path, direct: Direct) -> None:
    with receiving() as receiver:
        status, told, _ = send("--jobs", 2, "--json", *direct(receiver), out)
        document = json.loads(told)
        assert (status, document["status"], len(document["results"])) == (0, 0, 8)
        status, told, _ = send("--jobs", 2, "--jsonl", *direct(receiver), out)
    each = [json.loads(line) for line in told.splitlines()]
    assert {one["schema"] for one in each} == {"zsmtp.send-result/1"}
    assert {one["recipient"] for one in each} == {one["recipient"] for one in document["results"]}
    assert {one["message"] for one in each} == {str(path) for path in out.iterdir()}


def test_a_destination_belongs_to_one_process(send: Run, out: Path, direct: Direct, tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    traces.mkdir()
    with receiving() as receiver:
        assert send("--jobs", 2, "--trace", traces, *direct(receiver), out)[0] == 0
    sent: dict[str, set[str]] = {}
    for path in traces.iterdir():
        process = path.name.split("-")[-2]
        sent.setdefault(process, set()).update(re.findall(r"@(d\d\.example)", path.read_text()))
    assert len(list(traces.iterdir())) == 8
    assert len(sent) == 2
    assert str(os.getpid()) not in sent
    assert sorted(domain for domains in sent.values() for domain in domains) == sorted(DOMAINS)


def test_a_message_to_several_destinations_is_one_message(send: Run, direct: Direct, tmp_path: Path) -> None:
    """What it lacks is added once, and not by each process."""
    letter = write(tmp_path / "1.eml", 1, ", ".join(f"r@{domain}" for domain in DOMAINS))
    with receiving() as receiver:
        status, told, _ = send("--jobs", 4, *direct(receiver), letter)
        assert (status, told.splitlines()[-1]) == (0, "4 delivered")
        assert len({one.original_content for one in receiver.messages}) == 1
        assert (receiver.messages[0].original_content or b"").count(b"\r\nMessage-ID: <") == 1
        assert send("--jobs", 4, "--no-add", *direct(receiver), letter)[0] == 0
    assert {one.original_content for one in receiver.messages[4:]} == {letter.read_bytes().replace(b"\n", b"\r\n")}


def test_messages_with_missing_fields_need_one_more_file_together(out: Path, direct: Direct) -> None:
    """However few files may be open, no process adds fields of its own."""
    for number in range(8, 40):
        write(out / f"{number}.eml", number, f"r@{DOMAINS[0]}, r@{DOMAINS[1]}")
    with receiving() as receiver:
        done = command("--jobs", 2, *direct(receiver), out, files=30)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "72 delivered")
    assert len({one.original_content for one in receiver.messages}) == 40


def test_no_room_for_copies_is_told_before_anything_is_sent(
    send: Run, direct: Direct, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = write(tmp_path / "1.eml", 1, ", ".join(f"r@{domain}" for domain in DOMAINS))
    full = partial(open, "/dev/full", "r+b")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")
    with Sink() as sink:
        status, told, err = send("--jobs", 2, *direct(sink), letter)
        assert (status, told) == (73, "")
        assert err == (
            "zsmtp send: copies of messages for several processes cannot be kept in /var/tmp (TMPDIR names another "
            "folder): No space left on device\n"
        )
        status, told, err = send("--jobs", 2, "--no-add", *direct(sink), letter)
        assert (status, told) == (73, "")
        assert err.startswith("zsmtp send: what processes have begun cannot be kept in /var/tmp ")
    assert not sink.connections


def test_standard_input_is_read_once(out: Path, direct: Direct, tmp_path: Path) -> None:
    """Messages of a mbox, and one message that several processes send."""
    mbox = b"".join(
        b"From me@example.org Thu Jan  1 00:00:00 2026\n" + path.read_bytes() + b"\n" for path in sorted(out.iterdir())
    )
    big = b"From: me@example.org\nSubject: big\n\n" + b"x" * 70 + b"\n" * 100_000
    with receiving() as receiver:
        done = command("--jobs", 2, "--no-add", *direct(receiver), "-", stdin=mbox)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "8 delivered")
        for one in receiver.messages:
            sent = (out / f"{one.rcpt_tos[0][1]}.eml").read_bytes() + b"\n"
            assert one.original_content == sent.replace(b"\n", b"\r\n")
        to = [word for domain in DOMAINS for word in ("--to", f"r@{domain}")]
        done = command("--jobs", 2, "--no-add", *direct(receiver), *to, "-", stdin=big)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "4 delivered")
    assert {one.original_content for one in receiver.messages[8:]} == {big.replace(b"\n", b"\r\n")}


def test_a_descriptor_by_its_path_is_what_it_is_here(out: Path, direct: Direct) -> None:
    """Another process has another standard input."""
    to = [word for domain in DOMAINS for word in ("--to", f"r@{domain}")]
    with receiving() as receiver, open(out / "1.eml", "rb") as file:
        words = ["send", "--jobs", "2", *direct(receiver), *to, "--no-add", "/dev/stdin"]
        done = subprocess.run(
            [sys.executable, "-m", "zsmtp.cli.main", *words], stdin=file, capture_output=True, timeout=120, check=False
        )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, b"4 delivered")


def test_one_relay_is_shared_by_messages_within_its_limits(send: Run, out: Path, tmp_path: Path) -> None:
    config = tmp_path / "zsmtp.toml"
    config.write_text("[limits]\nper_destination = 2\n")
    traces = tmp_path / "traces"
    traces.mkdir()
    with receiving(most=2) as receiver:  # a third connection at a time would be closed at once
        words = ("--jobs", 4, "--trace", traces, "--config", config, "--relay", f"127.0.0.1:{receiver.port}")
        status, told, _ = send(*words, out)
    assert (status, told.splitlines()[-1]) == (0, "8 delivered")
    assert len({path.name.split("-")[-2] for path in traces.iterdir()}) == 2
    assert set(got(receiver).values()) == {1}


def test_a_rate_of_messages_holds_for_all(send: Run, out: Path, direct: Direct) -> None:
    """Eight messages at six a second, by two processes: more than a second passes before the seventh is begun."""
    with receiving() as receiver:
        began = time.monotonic()
        status, _, _ = send("--jobs", 2, "--rate", "6/s", *direct(receiver), out)
        assert time.monotonic() - began >= 1.0
    assert status == 0
    assert len(receiver.messages) == 8


def test_octets_sent_by_processes_are_counted(
    send: Run, out: Path, direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For whoever waits at a terminal: one display for all."""
    displays: list[ProgressDisplay] = []

    def display(octets: int, recipients: int, *, colour: bool) -> ProgressDisplay:
        displays.append(ProgressDisplay(octets, recipients))
        return displays[-1]

    monkeypatch.setattr(zsmtp.cli.send, "progress_for", display)
    with receiving() as receiver:
        assert send("--jobs", 2, "--no-add", *direct(receiver), out)[0] == 0
    (shown,) = displays
    assert (shown.settled, shown.recipients) == (8, 8)
    assert shown.octets == sum(path.stat().st_size for path in out.iterdir())
    assert shown.sent == sum(len(one.original_content or b"") for one in receiver.messages)


def test_a_plan_is_executed_by_the_process_of_its_destination(
    send: Run, out: Path, direct: Direct, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with receiving() as receiver:
        assert main(["explain", "--json", *direct(receiver), *DOMAINS]) == 0
        plans = tmp_path / "plans.json"
        plans.write_text(capsys.readouterr().out)
        nobody = ("--resolver", "127.0.0.1:1")
        status, told, _ = send("--jobs", 2, "--plan", plans, *direct(receiver), *nobody, out)
    assert (status, told.splitlines()[-1]) == (0, "8 delivered")


def test_whoever_is_deferred_is_tried_again_by_the_same_process(send: Run, out: Path, direct: Direct) -> None:
    with Sink(Script(replies={"RCPT": (Step("450 4.2.1 later"), Step("450 4.2.1 later"), Step("250 ok"))})) as sink:
        status, told, err = send("--jobs", 2, "--retry-for", 3, *direct(sink), out)
    assert (status, told.splitlines()[-1]) == (0, "8 delivered")
    assert re.match(r"zsmtp send: \d recipients are deferred \(450 4\.2\.1 later\) and tried again", err)
    assert set(sink.deliveries().values()) == {1}


@pytest.mark.parametrize("jobs", ["0", "65", "1.5", "two", ""])
def test_what_is_no_number_of_processes(send: Run, jobs: str) -> None:
    status, _, err = send("--jobs", jobs, "x.eml")
    assert (status, "not auto or a number from 1 to 64" in err) == (64, True)


def test_as_many_processes_as_processors(send: Run, out: Path, direct: Direct) -> None:
    with receiving() as receiver:
        assert send("--jobs", "auto", *direct(receiver), out)[0] == 0
    assert set(got(receiver).values()) == {1}


# -------------------------------------------------------------------- journal


def entries(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()][1:]


def test_one_journal_for_all_processes(send: Run, out: Path, direct: Direct, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with receiving() as receiver:
        receiver.refuse.add("r3@d3.example")
        words = ("--journal", journal, *direct(receiver), out)
        status, told, _ = send("--jobs", 3, *words)
        assert (status, told.splitlines()[-1]) == (69, "7 delivered, 1 refused")
        for jobs in (1, 3):
            assert send("--jobs", jobs, *words)[:2] == (69, "earlier: 7 delivered, 1 refused\n")
    assert set(got(receiver).values()) == {1}
    for number in range(8):
        fates = [one["fate"] for one in entries(journal) if one["recipient"].startswith(f"r{number}@")]
        assert fates == (["failed"] if number == 3 else ["sending", "delivered"])


def test_a_journal_that_cannot_be_written_ends_it(out: Path, direct: Direct, tmp_path: Path) -> None:
    """The file may not grow: nothing is completed that could not be written down."""
    limited = f'ulimit -f 1; exec {sys.executable} -m zsmtp.cli.main send "$@"'
    with receiving() as receiver:
        words = ("--jobs", "2", "--journal", str(tmp_path / "journal"), *direct(receiver), str(out))
        done = subprocess.run(
            ["bash", "-c", limited, "send", *words], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 74
    assert (
        "journal: File too large\n" in done.stderr
    )  # a process whose lines are counted cannot write that file, either
    told = done.stdout.splitlines()
    assert len(told) == 9
    delivered, in_doubt = (sum(line.startswith(word) for line in told[:-1]) for word in ("delivered ", "in doubt "))
    assert delivered <= len(receiver.messages) <= delivered + in_doubt < 8


# ------------------------------------------------------------- ends of processes


def command(*arguments: object, stdin: bytes = b"", files: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own, which may have so many ``files`` open (0: as many as this one)."""
    words = [sys.executable, "-m", "zsmtp.cli.main", "send", *map(str, arguments)]
    if files:
        words = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *words]
    done = subprocess.run(words, input=stdin, capture_output=True, timeout=120, check=False)
    return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own, which is killed when it is left."""
    words = [sys.executable, "-m", "zsmtp.cli.main", "send", *map(str, arguments)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that it has started."""
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def one_connection(direct: Direct, tmp_path: Path) -> None:
    """No second connection to a destination is opened, however long its server says nothing."""
    with open(tmp_path / "zsmtp.toml", "a") as file:
        file.write("[limits]\nper_destination = 1\n")


@pytest.fixture
def hanging(one_connection: None) -> Iterator[Sink]:
    """A server that takes a message to its last octet, and says nothing more."""
    with Sink(Script(replies={"DOT": (Step(None, Then.HANG),)})) as sink:
        yield sink


def complete(sink: Sink) -> int:
    return sum(one.complete for one in sink.transactions)


def test_an_interrupt_ends_all_and_everybody_is_told_of(out: Path, direct: Direct, hanging: Sink) -> None:
    """As from a terminal: to all processes at once."""
    with started("--jobs", 2, *direct(hanging), out) as process:
        hanging.wait_for(lambda sink: complete(sink) == 4)
        pids = children(process)
        assert len(pids) == 2
        for pid in (process.pid, *pids):
            os.kill(pid, signal.SIGINT)
        told, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    fates = Counter(line.split()[0] for line in told.splitlines()[:-1])
    assert fates == {"in": 4, "deferred": 4}
    assert told.splitlines()[-1] == "4 deferred, 4 in doubt"
    assert all("interrupted" in line for line in told.splitlines()[:-1])
    assert not any(map(is_there, pids))


@pytest.mark.usefixtures("one_connection")
def test_a_second_interrupt_waits_for_nobody(out: Path, direct: Direct) -> None:
    """A process that is stopped cannot end what it does; it is killed then."""
    with (
        Sink(Script(replies={"DOT": (Step(None, Then.HANG),)})) as hanging,
        started("--jobs", 2, *direct(hanging), out) as process,
    ):
        hanging.wait_for(lambda sink: complete(sink) == 4)
        pids = children(process)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        told, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    assert told.splitlines()[-1] == "4 deferred, 4 in doubt"
    assert len(told.splitlines()) == 9
    assert not any(map(is_there, pids))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_second_interrupt_waits_for_no_good_bye(out: Path, direct: Direct, tmp_path: Path, jobs: int) -> None:
    """The server of one destination takes its mail and never answers QUIT."""
    with open(tmp_path / "zsmtp.toml", "a") as file:
        file.write("[limits]\nidle = 1000\n[timeouts]\nquit = 10000\n")
    hangs = {"DOT": (Step("250 ok"), Step("250 ok"), Step(None, Then.HANG)), "QUIT": (Step(None, Then.HANG),)}
    write(out / "last.eml", "last", "last@d0.example")
    with Sink(Script(replies=hangs)) as sink, started("--jobs", jobs, *direct(sink), out) as process:
        sink.wait_for(lambda sink: complete(sink) == 9)
        assert process.stdout is not None
        assert all(process.stdout.readline().startswith("delivered ") for _ in range(8))
        process.send_signal(signal.SIGINT)
        sink.wait_for_command("QUIT", 3)
        process.send_signal(signal.SIGINT)
        told, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    assert told.splitlines()[-1] == "8 delivered, 1 in doubt"


@pytest.mark.usefixtures("one_connection")
@pytest.mark.parametrize("journalled", [False, True])
def test_a_process_that_dies_loses_nobody(
    send: Run, out: Path, direct: Direct, tmp_path: Path, journalled: bool
) -> None:
    """Those it sent to are in doubt, those it had not begun are not tried; the other process goes on."""
    journal = ("--journal", tmp_path / "journal") if journalled else ()
    with (
        Sink(Script(replies={"DOT": (Step(None, Then.HANG),)})) as hanging,
        started("--jobs", 2, *journal, *direct(hanging), out) as process,
    ):
        hanging.wait_for(lambda sink: complete(sink) == 4)
        first, second = children(process)
        os.kill(first, signal.SIGKILL)
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(4)]
        os.kill(second, signal.SIGKILL)
        rest, err = process.communicate(timeout=120)
    assert process.returncode == 75
    assert Counter(line.split()[0] for line in told) == {"in": 2, "deferred": 2}
    why = r"a process of --jobs ended unexpectedly \(SIGKILL\)"
    assert all(re.search(f"{why} (while it was sent|before it was tried) ", line) for line in told)
    assert rest.splitlines()[-1] == "4 deferred, 4 in doubt"
    assert re.fullmatch(f"(zsmtp send: {why}; 4 of its recipients are in doubt or were not tried\n){{2}}", err)
    if not journalled:
        return
    with receiving() as receiver:
        status, last, _ = send(*journal, *direct(receiver), out)
    assert (status, last.splitlines()[-1]) == (75, "4 delivered, 4 in doubt")
    assert set(got(receiver).values()) == {1}


def test_no_process_outlives_the_one_that_started_it(
    send: Run, out: Path, direct: Direct, hanging: Sink, tmp_path: Path
) -> None:
    journal = ("--journal", tmp_path / "journal")
    with started("--jobs", 2, *journal, *direct(hanging), out) as process:
        hanging.wait_for(lambda sink: complete(sink) == 4)
        pids = children(process)
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(is_there, pids)))
    assert complete(hanging) == 4
    with receiving() as receiver:
        status, last, _ = send(*journal, *direct(receiver), out)
    assert (status, last.splitlines()[-1]) == (75, "4 delivered, 4 in doubt")


def test_a_reader_that_goes_away_ends_all(out: Path, direct: Direct) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with receiving() as receiver:
        words = ("send", "--jobs", "2", *direct(receiver), str(out))
        done = subprocess.run(
            [sys.executable, "-m", "zsmtp.cli.main", *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("jobs", [1, 2])
def test_whoever_has_a_message_when_the_reader_goes_away_is_in_the_journal(
    send: Run, out: Path, direct: Direct, tmp_path: Path, jobs: int
) -> None:
    journal = tmp_path / "journal"
    words = ["send", "--jobs", jobs, "--journal", journal]
    reader, writer = os.pipe()
    os.close(reader)
    with receiving() as receiver:
        words += [*direct(receiver), out]
        done = subprocess.run(
            [sys.executable, "-m", "zsmtp.cli.main", *map(str, words)], stdout=writer, timeout=120, check=False
        )
        os.close(writer)
        assert done.returncode == 141
        last = {entry["message"]: entry["fate"] for entry in entries(journal)}
        assert len(last) == 8
        assert "sending" not in last.values()
        fates = Counter(last.values())
        assert 1 <= fates["delivered"] <= len(receiver.messages) <= fates["delivered"] + fates["in doubt"]


def test_a_process_that_cannot_be_started_is_told(
    send: Run, out: Path, direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with Sink() as sink:
        status, told, err = send("--jobs", 2, *direct(sink), out)
    assert (status, told) == (71, "")
    assert err == "zsmtp send: --jobs: a process cannot be started: No such file or directory\n"
    assert not sink.connections
