"""Plans as JSON: for ``zsmtp explain --json``, for traces, and as the input of a delivery.

The document names its schema, and contains every value of the plan, so that the parsed plan equals the written one::

    document = plan_document(plan)          # {"schema": "zsmtp.plan/1", "route": {"destination": ..., ...}, ...}
    text = json.dumps(document)
    assert parse_plan(text) == plan

``zsmtp.delivery.valuejson`` has the rules of the format; this module checks what must hold for a plan. A plan whose
connections would not go where it says is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.valuejson import Schema
from zsmtp.delivery.valuejson import parse_json as parse_json
from zsmtp.dns.answer import MX, Answer, Query
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.ip import canonical_scoped_ip, ip_family
from zsmtp.dns.literal import domain_problem
from zsmtp.tls.mtasts import CachedPolicy, PolicyLookup
from zsmtp.tls.policy import Barred, Level, Requirement, TLSPolicy

SCHEMA = "zsmtp.plan/1"

_MAX_SOCKET_PATH = 107  # octets of sun_path without its final NUL


def plan_document(plan: DeliveryPlan) -> dict[str, Any]:
    """The plan as a JSON object, for ``json.dumps``."""
    return _SCHEMA.document(plan)


def read_plan(document: object) -> DeliveryPlan:
    """The plan in a JSON object. Raises ConfigError if it is invalid."""
    plan = _SCHEMA.read(document)
    assert isinstance(plan, DeliveryPlan)
    return plan


def parse_plan(text: str | bytes) -> DeliveryPlan:
    """The plan in a JSON text. Raises ConfigError if it is invalid."""
    return read_plan(parse_json(text))


# -------------------------------------------------- what must hold of a value


def _endpoint_problem(endpoint: Endpoint) -> str | None:
    """Delivery connects to this endpoint, so it must be an address of the stated family."""
    if endpoint.family is Family.UNIX:
        path = endpoint.address.encode("utf-8", "surrogatepass")
        good = path[:1] == b"/" and b"\0" not in path and len(path) <= _MAX_SOCKET_PATH and endpoint.port == 0
        return None if good and endpoint.host == endpoint.address else "not a UNIX socket"
    address = endpoint.address
    if canonical_scoped_ip(address) != address or ip_family(address) is not endpoint.family:
        return f"not an {endpoint.family.value} address in its canonical form"
    if not 1 <= endpoint.port <= 65535:
        return "not a port"
    if endpoint.literal:
        return None if endpoint.host == address else "a literal with another name"
    problem = domain_problem(endpoint.host)
    return None if problem is None else f"the host {problem}"


def _requirement_problem(requirement: Requirement) -> str | None:
    if requirement.level is Level.DANE_ONLY:
        return "dane-only is a level of policies"
    if (requirement.level is Level.DANE) != bool(requirement.tlsa):
        return "level dane and TLSA records go together"
    if (requirement.level is Level.FINGERPRINT) != bool(requirement.fingerprints):
        return "level fingerprint and fingerprints go together"
    if requirement.server_name and domain_problem(requirement.server_name) is not None:
        return "the server name is not a host name"
    return None


def _mx_problem(record: MX) -> str | None:
    return None if 0 <= record.preference <= 65535 else "not a preference"


def _query_problem(query: Query) -> str | None:
    return None if len(query.name) <= 255 else "a name too long for the DNS"


_CHECKS: dict[type, Callable[[Any], str | None]] = {
    Endpoint: _endpoint_problem,
    Requirement: _requirement_problem,
    MX: _mx_problem,
    Query: _query_problem,
}

_SCHEMA = Schema(
    SCHEMA,
    DeliveryPlan,
    "a plan",
    names={
        DeliveryPlan: {
            "PolicyLookup": PolicyLookup,
            "Barred": Barred,
            "TLSPolicy": TLSPolicy,
            "Requirement": Requirement,
        }
    },
    texts=frozenset({(Answer, "records"), (CachedPolicy, "text")}),
    left_out=frozenset({(Query, "validated")}),  # plans use no answers without validation
    checks=_CHECKS,
)
