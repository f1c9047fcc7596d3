"""``zsmtp send --dry-run``: the deliveries and their commands, without any connection.

Name servers are queried for the plan of each destination (``zsmtp.cli.explanation``). The extensions of a server are
unknown without a connection, so the content and the commands are shown for two kinds: a server with all extensions that
this program uses, and one with none. The rules of a delivery make them: ``zsmtp.body`` chooses the form of the content,
``zsmtp.proto.plan`` the commands.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from zsmtp.body.target import ContentRefusal as ContentRefusal
from zsmtp.body.target import Conversion, Target
from zsmtp.cli.backends import ClientBackends
from zsmtp.cli.explain import Explainer
from zsmtp.cli.explainjson import explanation_document
from zsmtp.cli.explanation import Explanation, destination_of
from zsmtp.cli.outgoing import Outgoing
from zsmtp.cli.picture import picture
from zsmtp.cli.sysexits import Exit, worst
from zsmtp.cli.terminal import look_of
from zsmtp.client.config import Config
from zsmtp.client.destinations import Destination, Destinations, load_signing
from zsmtp.client.message import Letter
from zsmtp.delivery.content import Targets, content_form
from zsmtp.delivery.outcome import Verdict, from_no_protection, from_requiretls
from zsmtp.delivery.settings import SessionSettings
from zsmtp.escape import escape
from zsmtp.proto.capabilities import EVERYTHING, Capabilities
from zsmtp.proto.plan import (
    Envelope,
    LocalRefusal,
    TLSDemand,
    capacity,
    left_out,
    options_refusal,
    plan_transaction,
    recipient_refusal,
    sender_refusal,
)
from zsmtp.text.lines import line
from zsmtp.text.look import Style
from zsmtp.text.tree import Node, draw

SCHEMA = "zsmtp.dry-run/1"
MAX_SHOWN = 20  # commands of one group in the text output

_SERVERS = (("a server that offers everything", EVERYTHING), ("a server that offers nothing", Capabilities()))

_FORMS = {
    Conversion.NONE: "as it is",
    Conversion.QP: "encoded anew (quoted-printable or base64)",
    Conversion.EIGHT_BIT: "decoded to 8 bits",
    Conversion.MULTIPART_QP: "its parts encoded anew (quoted-printable or base64)",
}


@dataclass(frozen=True, slots=True)
class ServerForm:
    """The transaction with one kind of server: octets of the content, its conversion, the commands by groups.

    ``refused`` is the reason why there would be none, for the message or for recipients.
    """

    server: str
    size: int = 0
    conversion: Conversion = Conversion.NONE
    remarks: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The delivery to the recipients of one message at one destination.

    ``unprotected``: there would be none, because the message requires TLS and none is configured.
    """

    message: Outgoing
    destination: Destination
    recipients: tuple[str, ...]
    explanation: Explanation
    forms: tuple[ServerForm, ...]
    unprotected: bool = False

    @property
    def status(self) -> Exit:
        """The exit status, as far as the outcome is known."""
        return worst((self.explanation.status, Exit.TEMPORARY if self.unprotected else Exit.OK))


def dry_run(messages: Sequence[Outgoing], config: Config, options: argparse.Namespace) -> int:
    """Rehearse all messages and print the result; return the exit status."""
    look = look_of(sys.stdout, options.color)
    rehearsals: list[Rehearsal] = []
    with closing(ClientBackends(config)) as ways:
        stage = _Stage(config, ways)
        for message in messages:
            found = stage.rehearse(message)
            rehearsals += found
            if not options.json:
                sys.stdout.write("".join(f"{one}\n" for one in draw(_picture(message, found), look)))
                sys.stdout.flush()
    if options.json:
        json.dump(_document(rehearsals), sys.stdout, indent=2)
        sys.stdout.write("\n")
    return worst(one.status for one in rehearsals)


class _Stage:
    """Rehearses deliveries: all their parts but a connection."""

    def __init__(self, config: Config, ways: ClientBackends) -> None:
        self._destinations = Destinations(config)
        wanted = self._destinations.target()
        self._targets = Targets(wanted)
        self._signing = load_signing(config, wanted, time.time)
        self._add_missing = config.content.add_missing
        self._explainer = Explainer(ways)
        self._known: dict[tuple[Destination, TLSDemand], Explanation] = {}

    def rehearse(self, message: Outgoing) -> list[Rehearsal]:
        """The rehearsals of one message, by destination."""
        with closing(message.letter(self._signing, add_missing=self._add_missing)) as letter:
            groups: dict[Destination, list[int]] = {}
            for index, recipient in enumerate(letter.recipients):
                groups.setdefault(self._destinations.of(recipient, letter.sender), []).append(index)
            return [self._at(message, letter, where, letter.envelope(group)) for where, group in groups.items()]

    def _at(self, message: Outgoing, letter: Letter, where: Destination, envelope: Envelope) -> Rehearsal:
        recipients = tuple(one.address.decode("utf-8") for one in envelope.recipients)
        asked = where, letter.wish
        if asked not in self._known:
            self._known[asked] = self._explainer.explain(
                destination_of(recipients[0]), letter.wish, sender=letter.sender
            )
        settings = self._destinations.settings_for(where.relay)
        if self._known[asked].plan.route.failure is not None:  # there would be no transaction
            return Rehearsal(message, where, recipients, self._known[asked], ())
        forms = [self._form(letter, envelope, name, settings, offered) for name, offered in _SERVERS]
        unprotected = letter.wish is TLSDemand.REQUIRETLS and settings.security is None
        return Rehearsal(message, where, recipients, self._known[asked], tuple(forms), unprotected)

    def _form(
        self, letter: Letter, envelope: Envelope, server: str, settings: SessionSettings, offered: Capabilities
    ) -> ServerForm:
        unsafe = _not_safe_enough(envelope.wish, settings, offered)
        if unsafe is not None:
            return ServerForm(server, refused=(f"{unsafe.text} ({unsafe.status})",))
        usable = settings.usable(offered)
        early = options_refusal(envelope.options, usable)
        if early is not None:
            return ServerForm(server, refused=(f"{early.text} ({early.status})",))
        target: Target = self._targets.of(usable, internationalised=envelope.internationalised)
        content = letter.stored().content(target)
        if isinstance(content, ContentRefusal):
            return ServerForm(server, refused=(f"{content.text} ({content.status})",))
        form = content_form(content)
        assert not isinstance(form, LocalRefusal)
        sender = sender_refusal(envelope, usable)
        if sender is not None:
            return ServerForm(server, refused=(f"{_shown(envelope.sender)}: {sender.text} ({sender.status})",))
        refused = []
        taken = []
        for recipient in envelope.recipients:
            problem = recipient_refusal(recipient, usable)
            if problem is None:
                taken.append(recipient)
            else:
                refused.append(f"{_shown(recipient.address)}: {problem.text} ({problem.status})")
        groups: list[tuple[str, ...]] = []
        while taken:
            count = capacity(taken, usable)
            part = envelope._replace(recipients=tuple(taken[:count]))
            planned = plan_transaction(part, form, usable).groups
            groups += [tuple(_shown(step.shown) for step in group if step.wire) for group in planned]
            taken = taken[count:]
        shown = tuple(group for group in groups if group)
        remarks = letter.remarks + content.remarks + left_out(envelope.options, usable)
        if letter.dsn is not None and not usable.dsn:
            remarks += ("notifications are not requested: no DSN",)
        return ServerForm(server, content.size, content.conversion, remarks, shown, tuple(refused))


def _not_safe_enough(wish: TLSDemand, settings: SessionSettings, offered: Capabilities) -> Verdict | None:
    """The verdict on a REQUIRETLS message if no such server would receive it; None if one would."""
    if wish is not TLSDemand.REQUIRETLS:
        return None
    if settings.security is None:
        return from_no_protection()
    return None if offered.require_tls else from_requiretls(None)


def _shown(octets: bytes) -> str:
    return escape(octets)


# ---------------------------------------------------------------------- output


def _picture(message: Outgoing, rehearsals: Sequence[Rehearsal]) -> Node:
    root = Node(
        line(escape(message.name), Style.STRONG)
        + line(f": {message.size} octets, from {escape(message.sender) or '<> (null)'}; nothing is sent")
    )
    for one in rehearsals:
        branch = root.add(line("to ") + line(escape(", ".join(one.recipients)), Style.NAME))
        branch.children.append(picture(one.explanation))
        for form in one.forms:
            branch.children.append(_form_picture(form))
    return root


def _form_picture(form: ServerForm) -> Node:
    node = Node(line(form.server))
    for text in form.refused:
        node.fact("refused", line(text, Style.BAD))
    if form.groups:
        node.fact("content", line(f"{_FORMS[form.conversion]}, {form.size} octets"))
    for remark in form.remarks:
        node.fact("note", line(escape(remark)))
    for number, group in enumerate(form.groups):
        more = f" ... and {len(group) - MAX_SHOWN} more" if len(group) > MAX_SHOWN else ""
        for place, text in enumerate(group[:MAX_SHOWN]):
            last = place == min(len(group), MAX_SHOWN) - 1
            key = "" if place else "then" if number else "says"
            node.fact(key, line(text + (more if last else "")))
    return node


def _document(rehearsals: Sequence[Rehearsal]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "deliveries": [
            {
                "message": one.message.name,
                "octets": one.message.size,
                "sender": one.message.sender,
                "recipients": list(one.recipients),
                "destination": one.destination.name,
                "explanation": explanation_document(one.explanation),
                "forms": [
                    {
                        "server": form.server,
                        "octets": form.size,
                        "conversion": form.conversion.value,
                        "remarks": list(form.remarks),
                        "commands": [list(group) for group in form.groups],
                        "refused": list(form.refused),
                    }
                    for form in one.forms
                ],
            }
            for one in rehearsals
        ],
    }
