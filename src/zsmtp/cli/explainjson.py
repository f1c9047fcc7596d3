"""Explanations as JSON for ``zsmtp explain --json``, and the plans read back from it.

One document for all destinations::

    {"schema": "zsmtp.explain/1",
     "explanations": [{"asked": "user@example.org", "status": 0, "reason": "", "plan": {"schema": "zsmtp.plan/1", ...},
                       "candidates": [{"endpoint": {...}, "from": {...}, "tlsa": [...], "probe": null}], ...}]}

``plan`` is complete: :func:`read_plans` returns plans that can be executed. The rest is for people and scripts.
"""

from __future__ import annotations

import hashlib
from typing import Any

from zsmtp.cli.explanation import Explanation, Introduction
from zsmtp.cli.probe import Probe, RecipientAnswer
from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.outcome import Verdict
from zsmtp.delivery.planjson import SCHEMA as PLAN_SCHEMA
from zsmtp.delivery.planjson import parse_json, plan_document, read_plan
from zsmtp.delivery.reasons import account_of, reason_of
from zsmtp.dns.answer import TLSA, Answer
from zsmtp.dns.candidates import Endpoint
from zsmtp.errors import ConfigError
from zsmtp.tls.certificate import Certificate
from zsmtp.tls.dane import record_for, unusable_because, usable
from zsmtp.tls.facts import shown_time
from zsmtp.tls.judgement import Judgement

SCHEMA = "zsmtp.explain/1"


def explain_document(explanations: list[Explanation]) -> dict[str, Any]:
    """The document for ``json.dumps``."""
    return {"schema": SCHEMA, "explanations": [explanation_document(one) for one in explanations]}


def read_plans(text: str | bytes) -> list[DeliveryPlan]:
    """The plans in such a document, or a single plan. Raises ConfigError for any other text."""
    document = parse_json(text)
    if isinstance(document, dict) and document.get("schema") == PLAN_SCHEMA:
        return [read_plan(document)]
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ConfigError(f"neither an explanation ({SCHEMA}) nor a plan ({PLAN_SCHEMA})")
    explanations = document.get("explanations")
    if not isinstance(explanations, list) or not all(isinstance(one, dict) for one in explanations):
        raise ConfigError("explanations: not a list of objects")
    return [read_plan(one.get("plan")) for one in explanations]


def explanation_document(explanation: Explanation) -> dict[str, Any]:
    """One explanation as a JSON object."""
    limits = explanation.limits
    return {
        "asked": explanation.asked,
        "status": int(explanation.status),
        "reason": explanation.reason,
        "relay": explanation.via or None,
        "route": explanation.route or None,
        "plan": plan_document(explanation.plan),
        "candidates": [_candidate(explanation, one.endpoint) for one in explanation.plan.route.candidates],
        "ended": None if explanation.ended is None else explanation.ended[0],
        "undelivered": [{"recipient": address, "why": why} for address, why in explanation.undelivered],
        "validation": explanation.validation,
        "sender": _sender(explanation),
        "limits": None
        if limits is None
        else {
            "hosts": limits.hosts,
            "addresses": limits.addresses,
            "connect_seconds": limits.timeouts.connect,
            "command_seconds": limits.timeouts.command,
            "final_seconds": limits.timeouts.final,
        },
    }


def _sender(explanation: Explanation) -> dict[str, Any] | None:
    if explanation.sender is None:
        return None
    from zsmtp.cli.senderside import view_document  # as in picture

    return view_document(explanation.sender)


def _candidate(explanation: Explanation, endpoint: Endpoint) -> dict[str, Any]:
    introduction = explanation.introductions.get(endpoint)
    probe = explanation.probes.get(endpoint)
    trial = explanation.trials.get(endpoint)
    finding = explanation.plan.sts.finding(endpoint.host) if explanation.plan.sts is not None else None
    return {
        "host": endpoint.host,
        "address": endpoint.address,
        "port": endpoint.port,
        "private": explanation.is_private(endpoint),
        "from": None if introduction is None else _introduction(introduction),
        "tlsa": [_tlsa_answer(answer) for answer in explanation.tlsa_answers(endpoint)],
        "mta_sts": None if finding is None else {"mode": finding.mode.value, "listed": finding.listed},
        "probe": None if probe is None else _probe(probe),
        "trial": None if trial is None else {"good": trial.good, "text": trial.text},
    }


def _introduction(introduction: Introduction) -> dict[str, Any]:
    check = introduction.check
    return {
        "address": introduction.source,
        "name": introduction.name,
        "problem": introduction.problem or (check.problem if check is not None else ""),
        "reverse": list(check.reverse) if check is not None else [],
        "reverse_matches": check.named if check is not None else None,
        "forward_matches": check.confirmed if check is not None else None,
    }


def _tlsa_answer(answer: Answer) -> dict[str, Any]:
    records = [one for one in answer.records if isinstance(one, TLSA)]
    counted = usable(records)
    return {
        "name": answer.query.name,
        "status": answer.status.value,
        "secure": answer.secure,
        "problem": answer.problem,
        "records": [
            {
                "usage": one.usage,
                "selector": one.selector,
                "matching": one.matching,
                "data": one.data.hex(),
                "usable": one in counted and answer.secure,
                "reason": unusable_because(one),
            }
            for one in records
        ],
    }


def _probe(probe: Probe) -> dict[str, Any]:
    verdict, facts = probe.verdict, probe.facts
    return {
        "opened": verdict is None,
        "verdict": None if verdict is None else _verdict(verdict),
        "seconds": round(probe.seconds, 6),
        "steps": [{"name": one.name, "seconds": round(one.seconds, 6), "text": one.text} for one in probe.steps],
        "keywords": list(probe.keywords),
        "remarks": list(probe.remarks),
        "recipient": None if probe.answer is None else _answer(probe.answer),
        "tls": None
        if facts is None
        else {
            "protocol": facts.protocol,
            "cipher": facts.cipher,
            "bits": facts.bits,
            "key_exchange": facts.key_exchange,
            "server_name": facts.server_name,
            "peer": facts.peer,
            "certificate": None if facts.leaf is None else _certificate(facts.leaf),
            "judgement": None if probe.judgement is None else _judgement(probe.judgement),
        },
    }


def _certificate(leaf: Certificate) -> dict[str, Any]:
    """The peer's own certificate, unverified, and the TLSA record for it."""
    needed = record_for(leaf)
    return {
        "subject": leaf.subject,
        "issuer": leaf.issuer,
        "names": list(leaf.names),
        "not_before": shown_time(leaf.not_before),
        "not_after": shown_time(leaf.not_after),
        "sha256": hashlib.sha256(leaf.der).hexdigest(),
        "tlsa": f"{needed.usage} {needed.selector} {needed.matching} {needed.data.hex()}",
    }


def _answer(answer: RecipientAnswer) -> dict[str, Any]:
    verdict = answer.verdict
    return {
        "address": answer.recipient,
        "accepted": verdict is None,
        "commands": [{"command": one.command, "reply": one.reply} for one in answer.commands],
        "verdict": None if verdict is None else _verdict(verdict),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "fate": verdict.fate.value,
        "status": str(verdict.status),
        "text": account_of(verdict),
        "reason": reason_of(verdict),
    }


def _judgement(judgement: Judgement) -> dict[str, Any]:
    return {
        "ok": judgement.ok,
        "verified": judgement.verified.value,
        "text": judgement.text,
        "problem": None if judgement.problem is None else judgement.problem.value,
        "trial": None if judgement.trial is None else _judgement(judgement.trial),
    }
