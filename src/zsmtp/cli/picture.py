"""An explanation as a tree for people: the destination, its exchangers in order, their addresses, the requirements.

This module chooses words and layout, and decides nothing. Good, doubtful and bad facts have colours, and words as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from zsmtp.cli.explanation import DeliveryLimits, Explanation, Introduction
from zsmtp.cli.probe import Probe, RecipientAnswer
from zsmtp.cli.sysexits import Exit
from zsmtp.client.destinations import RouteReason
from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.outcome import Disposition
from zsmtp.dns.answer import MX, TLSA, Answer, RecordType, Status
from zsmtp.dns.candidates import Candidate, Endpoint, Family
from zsmtp.escape import escape
from zsmtp.text.lines import NO_BREAK, Text, line
from zsmtp.text.look import Style
from zsmtp.text.tree import Node
from zsmtp.tls.dane import DANE_TA, described, record_for, unusable_because, usable
from zsmtp.tls.judgement import Verified
from zsmtp.tls.mtasts import PolicyLookup
from zsmtp.tls.policy import Barred, Level, Requirement
from zsmtp.tls.problem import TLSProblem

MAX_SHOWN = 12  # exchangers, records and the like shown of one kind; the JSON has all

_PROTECTION = {
    Level.NONE: "in clear",
    Level.MAY: "if offered, with any certificate",
    Level.ENCRYPT: "required, with any certificate",
    Level.FINGERPRINT: "required, with a known certificate",
    Level.VERIFY: "required, with a certificate for the host",
    Level.SECURE: "required, with a certificate for one of the names",
    Level.DANE: "required, with a certificate that TLSA records name",
}

_ROUTES = {one.value for one in (RouteReason.RECIPIENT, RouteReason.SENDER_ADDRESS, RouteReason.SENDER_DOMAIN)}
_STYLES = {Exit.OK: Style.GOOD, Exit.TEMPORARY: Style.WARN}


def picture(explanation: Explanation) -> Node:
    """The whole explanation."""
    plan = explanation.plan
    root = Node(_headline(explanation))
    if explanation.ended is not None:
        root.fact("ended", line(escape(explanation.ended[0]), _STYLES.get(explanation.ended[1], Style.BAD)))
    for address, why in explanation.undelivered[:MAX_SHOWN]:
        root.fact("to", line(f"{escape(address)}: {escape(why)}"))
    if len(explanation.undelivered) > MAX_SHOWN:
        root.fact("to", line(f"and {len(explanation.undelivered) - MAX_SHOWN} more"))
    if explanation.via:
        by = f", by the {explanation.route}" if explanation.route in _ROUTES else ""
        root.fact("relay", line(f"{escape(explanation.via)}{by}"))
    _add_route(root, explanation)
    if explanation.validation:
        root.fact("DNSSEC", line(explanation.validation, Style.WARN))
    if plan.sts is not None:
        root.fact("MTA-STS", _sts(plan.sts))
    if plan.policy is not None:
        wanted = plan.policy.level.value
        root.fact("policy", line(f"level {wanted}{', TLSA records are looked up' if plan.policy.dane else ''}"))
    if plan.problem:
        root.fact("policy", line(escape(plan.problem), Style.BAD))
    for warning in plan.notes[:MAX_SHOWN]:
        root.fact("note", line(escape(warning), Style.WARN))
    for note in plan.route.notes[:MAX_SHOWN]:
        root.fact("note", line(escape(note)))
    requirement = _required_alike(plan)
    if requirement is not None:
        _add_requirement(root, plan, requirement)
    if _introduced_alike(explanation):
        root.fact("from", _introduction(next(iter(explanation.introductions.values()))))
    if _unreached_alike(explanation):
        root.fact("tried", line("no connection", Style.BAD), line(f": {explanation.reason}"))
    if explanation.limits is not None and plan.route.candidates:
        root.fact("limits", _limits(explanation.limits))
    if "@" in explanation.asked and not explanation.probes and explanation.ended is None:
        root.fact("RCPT", line("not tried (--rcpt)"))
    _add_exchangers(root, explanation)
    if explanation.sender is not None:
        from zsmtp.cli.senderside import add_view  # imported only if a sender is shown

        add_view(root, explanation.sender)
    return root


def _headline(explanation: Explanation) -> Text:
    plan = explanation.plan
    name = line(escape(explanation.asked), Style.STRONG) + line(": ")
    failure = plan.route.failure
    if failure is not None:
        verdict = line("not deliverable", Style.BAD) if failure.permanent else line("deferred", Style.WARN)
        return name + verdict + line(f": {explanation.reason}")
    if explanation.ended is not None:
        verdict = line("a recorded delivery")
    elif explanation.answer is not None:
        return name + _answered(explanation.answer)
    elif explanation.status is Exit.OK:
        verdict = line("deliverable", Style.GOOD)
    elif explanation.status is Exit.UNAVAILABLE:
        verdict = line("refused by every host", Style.BAD)
    else:
        verdict = line("deferred", Style.WARN)
    hosts = {one.endpoint.host for one in plan.route.candidates}
    where = f", {_count(len(plan.route.candidates), 'address')}"
    if not all(one.endpoint.literal for one in plan.route.candidates):
        where += f" of {_count(len(hosts), 'host')}"
    where += f": {explanation.reason}" if explanation.reason else ""
    return name + verdict + line(where)


def _answered(answer: RecipientAnswer) -> Text:
    """The reply about a recipient, in a few words."""
    verdict = answer.verdict
    if verdict is None:
        return line("accepted", Style.GOOD) + line(f": {answer.words}")
    failed = verdict.fate is Disposition.FAILED
    return (line("refused", Style.BAD) if failed else line("deferred", Style.WARN)) + line(f": {answer.words}")


def _some(texts: Sequence[str], limit: int = MAX_SHOWN) -> str:
    """The first of the texts, and the number of the others: remote systems decide how many there are."""
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(map(escape, texts[:limit])) + more


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


# ---------------------------------------------------------------------- route


def _add_route(root: Node, explanation: Explanation) -> None:
    for answer in explanation.plan.route.lookups:
        if answer.query.type is RecordType.MX:
            root.fact("MX", _answer(answer, [f"{one.preference} {one.exchange or '.'}" for one in _mx(answer)]))
        if answer.query.type is RecordType.WKS:
            root.fact("WKS", _answer(answer, [f"{_count(len(answer.records), 'record')}"]))


def _mx(answer: Answer) -> list[MX]:
    return sorted((one for one in answer.records if isinstance(one, MX)), key=lambda one: one.preference)


def _answer(answer: Answer, records: list[str], at: str = "") -> Text:
    """An answer in one line: its records (and their name), whether they are secure, and their TTL."""
    if answer.temporary:
        text = line(answer.status.value, Style.BAD if answer.status is Status.BOGUS else Style.WARN)
        return text + line(f"{at} ({escape(answer.problem)})" if answer.problem else at)
    if answer.status is not Status.OK:
        why = answer.problem or ("" if answer.status is Status.NODATA or at else answer.status.value)
        return line(f"none{at} ({escape(why)}); " if why else f"none{at}; ") + _safety(answer)
    ttl = line(f", TTL{NO_BREAK}{answer.ttl}{NO_BREAK}s")
    return line(f"{_some(records)}{at}; ") + _safety(answer) + ttl


def _safety(answer: Answer) -> Text:
    return line("secure", Style.GOOD) if answer.secure else line("insecure", Style.FAINT)


def _sts(lookup: PolicyLookup) -> Text:
    policy = lookup.policy
    words = escape(lookup.note).replace("MTA-STS policy", "policy", 1)  # the key beside it already says policy
    text = line(words, Style.WARN if lookup.failure is not None else Style.PLAIN)
    if policy is None:
        return text
    return text + line(f": {_some(policy.mx) or 'no hosts'}; max age {policy.max_age}{NO_BREAK}s")


def _limits(limits: DeliveryLimits) -> Text:
    times = limits.timeouts
    waits = {"connect": times.connect, "commands": times.command, "end of data": times.final}
    text = ", ".join(f"{name} {seconds:g}{NO_BREAK}s" for name, seconds in waits.items())
    return line(f"{limits.hosts} hosts, {limits.addresses} addresses; {text}")


# ------------------------------------------------------------------ candidates


def _add_exchangers(root: Node, explanation: Explanation) -> None:
    """Add a branch for each exchanger in the order of delivery; candidates of one host stay together."""
    groups: dict[tuple[int, str], list[Candidate]] = {}
    for candidate in explanation.plan.route.candidates:
        groups.setdefault((candidate.preference, candidate.endpoint.host), []).append(candidate)
    lookups = explanation.plan.route.lookups
    by_mx = any(one.query.type is RecordType.MX and one.status is Status.OK for one in lookups)
    for (preference, host), candidates in groups.items():
        first = candidates[0].endpoint
        if first.literal:
            for candidate in candidates:
                _add_candidate(root, candidate, explanation)
            continue
        rank = line(f"{preference} ", Style.FAINT) if by_mx else ()
        branch = root.add(rank + line(escape(host), Style.NAME))
        for answer in lookups:
            if answer.query.name == host and answer.query.type in (RecordType.A, RecordType.AAAA):
                branch.fact(answer.query.type.value, _answer(answer, [str(one) for one in answer.records]))
        _add_tlsa(branch, explanation, first)
        if explanation.plan.sts is not None:
            _add_match(branch, explanation.plan.sts, host)
        for candidate in candidates:
            _add_candidate(branch, candidate, explanation)


def _add_tlsa(branch: Node, explanation: Explanation, endpoint: Endpoint) -> None:
    """The TLSA records of a host, each with the reason if it is not usable."""
    for answer in explanation.tlsa_answers(endpoint):
        records = [one for one in answer.records if isinstance(one, TLSA)]
        at = f" at {escape(answer.query.name)}"
        branch.fact("TLSA", _answer(answer, [_count(len(records), "record")], at))
        counted = usable(records)
        for record in records[:MAX_SHOWN]:
            reason = unusable_because(record)
            if reason:
                verdict = line(f"not usable: {reason}", Style.WARN)
            elif record not in counted:
                verdict = line("not used: there is a record with a stronger digest", Style.FAINT)
            elif not answer.secure:
                verdict = line("not used: the answer is not secure", Style.WARN)
            else:
                verdict = line("usable", Style.GOOD)
            branch.fact("", line(f"{described(record)}  "), verdict)


def _add_match(branch: Node, lookup: PolicyLookup, host: str) -> None:
    finding = lookup.finding(host)
    if finding is not None:
        word = line("listed", Style.GOOD) if finding.listed else line("not listed", Style.BAD)
        branch.fact("MTA-STS", word, line(" in the policy"))


def _add_candidate(parent: Node, candidate: Candidate, explanation: Explanation) -> None:
    endpoint = candidate.endpoint
    if endpoint.family is Family.UNIX:
        label = line(escape(f"UNIX:{endpoint.address}"), Style.NAME)
    else:
        label = line(endpoint.address, Style.NAME) + line(f" port {endpoint.port}")
    node = parent.add(label)
    if _required_alike(explanation.plan) is None:
        _add_requirement(node, explanation.plan, endpoint)
    if explanation.is_private(endpoint):
        text = f"{endpoint.address} is a private address: other networks cannot reach it"
        node.fact("note", line(text, Style.WARN))
    introduction = explanation.introductions.get(endpoint)
    if introduction is not None and not _introduced_alike(explanation):
        node.fact("from", _introduction(introduction))
    probe = explanation.probes.get(endpoint)
    if probe is not None and not _unreached_alike(explanation):
        _add_probe(node, probe)
    trial = explanation.trials.get(endpoint)
    if trial is not None:
        node.fact("tried", line(escape(trial.text), Style.GOOD if trial.good else Style.BAD))


def _add_requirement(node: Node, plan: DeliveryPlan, endpoint: Endpoint) -> None:
    found = plan.requirements.get(endpoint)
    if found is None:
        undecided = plan.policy is not None or plan.problem
        node.fact("TLS", line("not decided: not tried" if undecided else "not used: nothing is configured"))
    else:
        for key, text in _requirement_shown(found):
            node.fact(key, text)


def _requirement_shown(found: Requirement | Barred) -> list[tuple[str, Text]]:
    """The requirements for a candidate, as facts."""
    if isinstance(found, Barred):
        return [("TLS", line("not to be used now", Style.BAD) + line(f": {escape(found.reason)}"))]
    trial = [] if found.trial is None else [("", line("in trial: ") + _trial(found.trial))]
    return [("TLS", _requirement(found)), *trial]


def _requirement(found: Requirement) -> Text:
    style = Style.GOOD if found.authenticates else Style.WARN if not found.wants_tls else Style.PLAIN
    text = line(found.level.value, style) + line(f": {_PROTECTION[found.level]}; {escape(found.reason)}")
    by_name = found.level is not Level.DANE or any(record.usage == DANE_TA for record in found.tlsa)
    if found.authenticates and found.names and by_name:  # under DANE-EE names are not checked
        text += line(f"; names {_some(found.names)}")
    return text


def _trial(trial: Requirement | Barred) -> Text:
    if isinstance(trial, Barred):
        return line("would not be used", Style.WARN) + line(f": {escape(trial.reason)}")
    return _requirement(trial)


def _required_alike(plan: DeliveryPlan) -> Endpoint | None:
    """One of several candidates with the same requirements, to show them once. None if they differ."""
    found = list(plan.requirements.items())
    if not len(plan.route.candidates) == len(found) > 1:
        return None
    shown = [_requirement_shown(one) for _, one in found]
    return found[0][0] if all(one == shown[0] for one in shown) else None


def _unreached_alike(explanation: Explanation) -> bool:
    """Whether all of several candidates failed to connect for the same reason: then it is shown once."""
    probes = list(explanation.probes.values())
    return len(probes) > 1 and all(one.unconnected for one in probes) and len({one.reason for one in probes}) == 1


def _introduced_alike(explanation: Explanation) -> bool:
    """Whether this side appears in the same way to all of several candidates: then it is shown once."""
    ways = list(explanation.introductions.values())
    return len(ways) > 1 and all(way == ways[0] for way in ways)


def _introduction(introduction: Introduction) -> Text:
    if introduction.problem:
        return line(escape(introduction.problem), Style.BAD)
    text = line(f"{introduction.source or 'this machine'} as {escape(introduction.name)}; ")
    check = introduction.check
    if check is None:
        return text + line("not looked up")
    if check.named and check.confirmed:
        return text + line("reverse and forward names match", Style.GOOD)
    if check.problem:
        return text + line(escape(check.problem))
    names = _some(check.reverse)
    reverse = f"the address is called {names}" if names else "the address has no reverse name"
    if introduction.name.startswith("["):  # a literal needs no lookup
        return text + line(reverse, Style.WARN)
    forward = "the name has the address" if check.confirmed else "the name does not have the address"
    return text + line(f"{reverse}, {forward}", Style.WARN)


# ----------------------------------------------------------------------- probe


def _add_probe(node: Node, probe: Probe) -> None:
    """The result of a probe: the verdict first, then the steps."""
    if probe.verdict is None:
        untold = "; MAIL and RCPT were not tried (--rcpt)" if probe.answer is None else ""
        rest = line(f", {shown_time(probe.seconds)} in all{untold}")
        node.fact("tried", line("a session can be opened", Style.GOOD), rest)
    elif probe.unconnected:
        node.fact("tried", line("no connection", Style.BAD), line(f": {probe.reason}"))
    else:
        node.fact("tried", line("no session", Style.BAD), line(f": {probe.reason} ({probe.verdict.status})"))
    if probe.answer is not None:
        _add_answer(node, probe.answer)
    if len(probe.steps) > 1:
        node.fact("times", line(", ".join(f"{step.name} {shown_time(step.seconds)}" for step in probe.steps)))
    greeting = next((step.text for step in probe.steps if step.name == "greeting"), "")
    if greeting:
        node.fact("greeting", line(greeting))
    if probe.keywords:
        node.fact("offers", line(_some(probe.keywords, 3 * MAX_SHOWN)))
    for remark in probe.remarks:
        node.fact(
            "note", line(remark, Style.PLAIN if probe.judgement is not None and probe.judgement.ok else Style.WARN)
        )
    if probe.facts is None and probe.verdict is None:
        node.fact("session", line("in clear", Style.WARN))
    if probe.facts is not None:
        node.fact("session", line(probe.facts.session))
        node.fact("peer", line(probe.facts.peer))
    if probe.judgement is not None:
        good = probe.judgement.ok
        word = line("good enough", Style.GOOD) if good else line("not good enough", Style.BAD)
        how = "" if probe.judgement.verified is Verified.NOT else f"{probe.judgement.verified.value}, "
        node.fact("verdict", word, line(f": {how}{escape(probe.judgement.text)}"))
        if probe.judgement.problem is TLSProblem.TLSA_INVALID and probe.facts is not None and probe.facts.leaf:
            needed = record_for(probe.facts.leaf)
            node.fact("needed", line(f"TLSA {needed.usage} {needed.selector} {needed.matching} {needed.data.hex()}"))
            node.fact("", line("is the record for the certificate that the server has now"))
        if probe.judgement.trial is not None:
            outcome = "would do" if probe.judgement.trial.ok else "would not do"
            node.fact("", line(f"in trial: {outcome}: {escape(probe.judgement.trial.text)}"))


def _add_answer(node: Node, answer: RecipientAnswer) -> None:
    """The replies about a recipient, with their commands."""
    node.fact("RCPT", line(f"{answer.recipient}: ") + _answered(answer))
    for one in answer.commands:
        node.fact("", line(f"{one.command} -> {one.reply}"))


def shown_time(seconds: float) -> str:
    """A duration for people: ``0.4 ms``, ``340 ms``, ``2.1 s``; number and unit are not separated."""
    if seconds >= 1:
        return f"{seconds:.1f}{NO_BREAK}s"
    return f"{seconds * 1000:.0f}{NO_BREAK}ms" if seconds >= 0.01 else f"{seconds * 1000:.1f}{NO_BREAK}ms"
