"""``METRICS_FILE``: what agents did, in the file of the textfile collector."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.support.agent import run
from tests.support.postoffice import PostOffice
from tests.support.script import Script, Step
from tests.support.sink import Sink

HOST = "[127.0.0.1]"


def test_two_agents_count_in_one_file(office: PostOffice, tmp_path: Path) -> None:
    path = tmp_path / "zsmtp.prom"
    office.write_zenv(METRICS_FILE=str(path))
    with Sink(Script(replies={"RCPT": (Step("250 ok"), Step("550 5.1.1 nobody"))})) as sink:
        for number in (1000, 1001):
            job = office.post(["a@example.com", "b@example.com"], name=str(number))
            assert run(office, "-h", "me.example", "-p", str(sink.port), stdin=job.line(HOST)).status == 0
    found = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    assert found["zsmtp_recipients_total", ("delivered",)] == 2
    assert found["zsmtp_recipients_total", ("failed",)] == 2
    assert found["zsmtp_connections_total", ("connected",)] == 2
    assert found["zsmtp_replies_total", ("RCPT", "5xx")] == 2


def test_mail_goes_where_the_file_cannot_be_written(office: PostOffice, tmp_path: Path) -> None:
    office.write_zenv(METRICS_FILE=str(tmp_path / "missing" / "zsmtp.prom"))
    job = office.post(["a@example.com"])
    with Sink() as sink:
        result = run(office, "-h", "me.example", "-p", str(sink.port), stdin=job.line(HOST))
    assert result.status == 0
    assert sink.deliveries() == {b"a@example.com": 1}
