"""The explanation of a recorded delivery: the plan in a trace, and the result of the delivery at each candidate.

``zsmtp.observers.codec`` reads the trace; ``zsmtp trace show`` draws all of it, this module puts it beside the plan.
"""

from __future__ import annotations

from zsmtp.cli.explanation import Explanation, Trial
from zsmtp.cli.failure import CommandFailed, reading
from zsmtp.cli.sysexits import Exit
from zsmtp.dns.candidates import Endpoint
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.observers.codec import load_trace
from zsmtp.observers.document import ConnectItem, Trace, TracedConnection, TracedRecipient


def replay(path: str) -> Explanation:
    """The explanation of the delivery in a trace file. Raises CommandFailed."""
    with reading(path):
        try:
            trace = load_trace(path)
        except ConfigError as error:
            raise CommandFailed(Exit.DATA, f"{escape(path)}: {escape(str(error))}") from error
    if trace.plan is None:
        raise CommandFailed(
            Exit.DATA, f"{escape(path)}: there is no plan in the trace: the delivery used a connection that was open"
        )
    endpoints = [one.endpoint for one in trace.plan.route.candidates]
    trials = {endpoint: trial for endpoint in endpoints if (trial := _trial(trace, endpoint)) is not None}
    return Explanation(
        asked=trace.destination,
        plan=trace.plan,
        lookups=trace.plan.route.lookups,
        trials=trials,
        ended=(_ended(trace), _status(trace)),
        undelivered=tuple((one.address, _why(one)) for one in trace.recipients if one.fate != "delivered"),
    )


def _why(recipient: TracedRecipient) -> str:
    """Why a recipient has not received the message."""
    if not recipient.fate:
        return "not decided"
    word = "in doubt" if recipient.in_doubt else "refused" if recipient.fate == "failed" else recipient.fate
    return f"{word}: {recipient.diagnostic.partition('; ')[2] or recipient.diagnostic} ({recipient.status})"


def _ended(trace: Trace) -> str:
    fates = trace.fates
    counts = {"delivered": fates.delivered, "refused": fates.failed, "deferred": fates.deferred}
    text = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "no recipient decided"
    if not fates.recipients:
        text = "candidates were tried, no mail was sent"
    doubt = f" ({fates.in_doubt} in doubt)" if fates.in_doubt else ""
    return f"{trace.started}, after {trace.seconds:.3g} s: {text}{doubt}"


def _status(trace: Trace) -> Exit:
    fates = trace.fates
    if not fates.recipients:
        return Exit.OK if any(not connection.refused for connection in trace.connections) else Exit.TEMPORARY
    if fates.failed:
        return Exit.UNAVAILABLE
    return Exit.TEMPORARY if fates.delivered < fates.recipients else Exit.OK


def _trial(trace: Trace, endpoint: Endpoint) -> Trial | None:
    """The result at a candidate: the last connection to it, or the failed attempt; None if it was not tried."""
    stood = [one for one in trace.connections if _is_to(one, endpoint)]
    if stood:
        last = stood[-1]
        if last.refused:
            return Trial(False, f"no session: {last.refused}")
        return Trial(True, f"used{', ' + last.tls if last.tls else ', in clear'}")
    failed = [one for one in trace.items if isinstance(one, ConnectItem) and _is_to(one, endpoint) and one.failed]
    return Trial(False, f"no connection: {failed[-1].failed}") if failed else None


def _is_to(one: TracedConnection | ConnectItem, endpoint: Endpoint) -> bool:
    return (one.host, one.address, one.port) == (endpoint.host, endpoint.address, endpoint.port)
