"""Plans as JSON: nothing is lost on the way there and back, and nothing foreign gets in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.plans import plans

from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.planjson import SCHEMA, parse_plan, plan_document, read_plan
from zsmtp.delivery.valuejson import MAX_DOCUMENT, MAX_ITEMS
from zsmtp.dns.answer import MX, TLSA, Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Candidate, Endpoint, Family, NoRoute, Plan
from zsmtp.errors import ConfigError
from zsmtp.proto.plan import TLSDemand
from zsmtp.tls.mtasts import CachedPolicy, PolicyLookup, PolicyMode
from zsmtp.tls.mtasts import STSPolicy as STSPolicy
from zsmtp.tls.policy import Barred, Level, Requirement, RequirementSource, TLSPolicy
from zsmtp.tls.problem import TLSProblem


@given(plans)
def test_a_plan_read_back_equals_the_plan_written(plan: DeliveryPlan) -> None:
    text = json.dumps(plan_document(plan))
    assert parse_plan(text) == plan
    assert parse_plan(text.encode()) == plan


MX1 = Endpoint("mx1.example.org", "192.0.2.1", 25, Family.INET)
MX2 = Endpoint("mx2.example.org", "2001:db8::2", 25, Family.INET6)
RECORD = TLSA(3, 1, 1, bytes(range(32)))
PLAN = DeliveryPlan(
    route=Plan(
        destination="example.org",
        candidates=(Candidate(MX1, 10), Candidate(MX2, 20)),
        lookups=(
            Answer(
                Query("example.org", RecordType.MX),
                Status.OK,
                (MX(10, "mx1.example.org"), MX(20, "mx2.example.org")),
                "example.org",
                300,
                secure=True,
                source="127.0.0.1:53",
            ),
            Answer(Query("x.example.org", RecordType.TXT), Status.OK, ((b"v=STSv1; ", b"id=\xff"),)),
        ),
        notes=("a note",),
        exchangers=("mx1.example.org", "mx2.example.org"),
    ),
    policy=TLSPolicy(level=Level.MAY, dane=True),
    sts=PolicyLookup(
        "example.org",
        STSPolicy(PolicyMode.ENFORCE, 86400, ("mx1.example.org",)),
        "MTA-STS policy, mode enforce (fetched)",
        CachedPolicy("example.org", "1", b"version: STSv1\r\n", 1e9),
    ),
    wish=TLSDemand.NONE,
    requirements={
        MX1: Requirement(
            level=Level.DANE,
            reason="TLSA records of mx1.example.org",
            source=RequirementSource.DANE,
            names=("mx1.example.org",),
            tlsa=(RECORD,),
            server_name="mx1.example.org",
        ),
        MX2: Barred("mx2.example.org is not listed", RequirementSource.MTA_STS, TLSProblem.VALIDATION_FAILURE),
    },
)


def test_the_schema_stays_what_it_is() -> None:
    """Whoever changes this document changes what programs read: that is a new schema."""
    document = plan_document(PLAN)
    assert document["schema"] == "zsmtp.plan/1"
    assert list(document) == [
        "schema",
        "route",
        "policy",
        "sts",
        "wish",
        "problem",
        "notes",
        "report_record",
        "requirements",
    ]
    assert document["route"]["candidates"][0] == {
        "endpoint": {
            "host": "mx1.example.org",
            "address": "192.0.2.1",
            "port": 25,
            "family": "IPv4",
            "literal": False,
        },
        "preference": 10,
    }
    assert document["route"]["lookups"][0] == {
        "query": {"name": "example.org", "type": "MX"},
        "status": "ok",
        "records": [
            {"type": "MX", "preference": 10, "exchange": "mx1.example.org"},
            {"type": "MX", "preference": 20, "exchange": "mx2.example.org"},
        ],
        "canonical": "example.org",
        "ttl": 300,
        "secure": True,
        "problem": "",
        "source": "127.0.0.1:53",
    }
    assert document["route"]["lookups"][1]["records"] == [["v=STSv1; ", "id=\xff"]]
    assert document["sts"]["store"]["text"] == "version: STSv1\r\n"
    first, second = document["requirements"]
    assert first["key"]["host"] == "mx1.example.org"
    assert first["value"]["type"] == "Requirement"
    assert first["value"]["tlsa"] == [{"usage": 3, "selector": 1, "matching": 1, "data": RECORD.data.hex()}]
    assert second["value"] == {
        "type": "Barred",
        "reason": "mx2.example.org is not listed",
        "source": "mta-sts",
        "problem": "validation-failure",
    }
    assert read_plan(document) == PLAN


def test_a_field_with_a_default_may_be_missing() -> None:
    failure = {"permanent": True, "status": "5.1.2", "text": "no such domain: nx.example"}
    found = read_plan({"schema": SCHEMA, "route": {"destination": "nx.example", "failure": failure}})
    assert found == DeliveryPlan(
        Plan("nx.example", failure=NoRoute(permanent=True, status="5.1.2", text="no such domain: nx.example"))
    )


def changed(path: str, value: object) -> dict[str, Any]:
    """The document of PLAN with one thing in it different; Ellipsis takes it out."""
    document = copy.deepcopy(plan_document(PLAN))
    place: Any = document
    *way, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    for word in way:
        place = place[word]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


ENDPOINT = "route.candidates.0.endpoint"


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("schema", "zsmtp.plan/2", "not a plan of zsmtp.plan/1: schema 'zsmtp.plan/2'"),
        ("schema", ..., "no schema"),
        ("route", ..., "route: missing"),
        ("route", None, "route: null is not valid here"),
        ("route", "example.org", "route: a string is not valid here"),
        ("surprise", 1, "surprise: nothing known to a DeliveryPlan"),
        ("bad\x1b[31m", 1, r"bad\\x1b\[31m: nothing known"),
        (f"{ENDPOINT}.port", ..., r"route.candidates\[0\].endpoint.port: missing"),
        (f"{ENDPOINT}.port", "25", r"route.candidates\[0\].endpoint.port: a string is not"),
        (f"{ENDPOINT}.port", True, "endpoint.port: a truth value is not"),
        (f"{ENDPOINT}.port", 25.0, "endpoint.port: a number is not"),
        (f"{ENDPOINT}.port", 1 << 60, "endpoint.port: a number is not"),
        (f"{ENDPOINT}.port", 0, r"route.candidates\[0\].endpoint: not a port"),
        (f"{ENDPOINT}.port", 65536, "not a port"),
        (f"{ENDPOINT}.address", "mx1.example.org", "not an IPv4 address"),
        (f"{ENDPOINT}.address", "192.0.2.01", "not an IPv4 address"),
        (f"{ENDPOINT}.address", "2001:db8::1", "not an IPv4 address"),
        (f"{ENDPOINT}.family", "IPv5", "endpoint.family: none of IPv4, IPv6, UNIX"),
        (f"{ENDPOINT}.family", "UNIX", "not a UNIX socket"),
        (f"{ENDPOINT}.family", ["IPv4"], "endpoint.family: none of"),
        (f"{ENDPOINT}.host", "mx1\r\nexample.org", "the host is not a valid host name"),
        (f"{ENDPOINT}.literal", 0, "endpoint.literal: a number is not"),
        (f"{ENDPOINT}.literal", True, "a literal with another name"),
        (f"{ENDPOINT}.extra", "x", "endpoint.extra: nothing known to a Endpoint"),
        ("route.candidates", {}, r"route.candidates: an object is not valid here"),
        ("route.candidates", [None] * (MAX_ITEMS + 1), "route.candidates: more than 20000 items"),
        ("route.lookups.0.status", "fine", "status: none of ok, no data"),
        ("route.lookups.0.records.0.type", "NS", r"records\[0\].type: none of MX, WKS, TLSA"),
        ("route.lookups.0.records.0.type", ..., r"records\[0\].type: none of"),
        ("route.lookups.0.records.0.preference", -1, r"records\[0\]: not a preference"),
        ("route.lookups.1.records.0", ["\u0100"], r"records\[0\]\[0\]: not octets"),
        ("route.lookups.0.query.name", "x" * 256, "too long for the DNS"),
        ("sts.policy.mode", "ENFORCE", "sts.policy.mode: none of enforce, testing, none"),
        ("sts.store.fetched", "now", "sts.store.fetched: a string is not"),
        ("sts.store.fetched", float("inf"), "sts.store.fetched: a number is not"),
        ("requirements", {}, "requirements: an object is not"),
        ("requirements.0", [], r"requirements\[0\]: not an object of key and value"),
        ("requirements.0.value.type", "Nothing", r"requirements\[0\].value.type: none of Requirement, Barred"),
        ("requirements.0.value.level", "dane-only", "dane-only is a level of policies"),
        ("requirements.0.value.level", "may", "level dane and TLSA records go together"),
        ("requirements.0.value.tlsa", [], "level dane and TLSA records go together"),
        ("requirements.0.value.fingerprints", ["00"], "level fingerprint and fingerprints go together"),
        ("requirements.0.value.server_name", "a b", "the server name is not a host name"),
        ("requirements.0.value.tlsa.0.data", "xyz", r"tlsa\[0\].data: not hexadecimal digits"),
        ("requirements.0.value.tlsa.0.data", 17, r"tlsa\[0\].data: a number is not"),
    ],
)
def test_what_is_foreign_is_refused_with_its_place(path: str, value: object, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_plan(changed(path, value))


def test_an_endpoint_is_decided_on_once() -> None:
    document = plan_document(PLAN)
    document["requirements"].append(document["requirements"][0])
    with pytest.raises(ConfigError, match=r"requirements\[2\].key: there twice"):
        read_plan(document)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "not JSON: line 1, column 1"),
        (b'{"schema": }', "not JSON: line 1, column 12"),
        (b"\xff\xfe\xff", "not JSON"),
        (b'{"schema": NaN}', "NaN is no number of JSON"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "not a plan: a list instead of an object"),
        (b" " * (MAX_DOCUMENT + 1), "longer than"),
    ],
)
def test_what_is_no_json_is_refused(text: bytes, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_plan(text)


def test_trials_within_trials_end() -> None:
    document = plan_document(PLAN)
    value: dict[str, Any] = {"type": "Requirement", "level": "may", "reason": "", "trial": None}
    for _ in range(5000):
        value = {"type": "Requirement", "level": "may", "reason": "", "trial": value}
    document["requirements"][0]["value"] = value
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_plan(document)


def every_place(value: Any) -> list[Callable[[object], None]]:
    """A setter for everything in a document."""
    places: list[Callable[[object], None]] = []
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        places.append(lambda new, key=key: value.__setitem__(key, new))
        places += every_place(value[key])
    return places


@given(st.data())
def test_no_change_of_a_document_gives_anything_but_a_plan_or_a_complaint(data: st.DataObject) -> None:
    document = copy.deepcopy(plan_document(PLAN))
    new = data.draw(st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({}))
    data.draw(st.sampled_from(every_place(document)))(new)
    plan, complaint = None, ""
    try:
        plan = read_plan(document)
    except ConfigError as error:
        complaint = str(error)
    assert complaint.isprintable()
    assert (plan is None) == bool(complaint)
    assert plan is None or read_plan(plan_document(plan)) == plan
