"""The results of recipients as text and JSON, one line each, and the exit status for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zsmtp.cli.sysexits import Exit, worst
from zsmtp.client.dsn import due
from zsmtp.client.report import Fate, Result
from zsmtp.escape import escape
from zsmtp.text.lines import Text, line, painted, wrap
from zsmtp.text.look import Look, Style

if TYPE_CHECKING:
    from zsmtp.cli.outgoing import Outgoing
    from zsmtp.cli.remaining import RemainingWork
    from zsmtp.cli.sendsources import UnusableMessage

SCHEMA = "zsmtp.send/1"
RESULT_SCHEMA = "zsmtp.send-result/1"
_INDENT = "           "

_WORDS = {
    Fate.DELIVERED: ("delivered", Style.GOOD, Exit.OK),
    Fate.DEFERRED: ("deferred", Style.WARN, Exit.TEMPORARY),
    Fate.IN_DOUBT: ("in doubt", Style.WARN, Exit.TEMPORARY),
    Fate.FAILED: ("refused", Style.BAD, Exit.UNAVAILABLE),
}


def status_of(results: Iterable[Result], *, refused: bool = False) -> Exit:
    """0 if all recipients were delivered to; 69 after a permanent refusal, else 75 after a deferral.

    A refusal counts more than a deferral: a script that sends again because of 75 must not do so for ever. ``refused``:
    there was a refusal in an earlier run.
    """
    return worst([Exit.UNAVAILABLE if refused else Exit.OK, *(_WORDS[result.fate][2] for result in results)])


def result_line(result: Result, *, file: str, look: Look, fold: bool) -> str:
    """``delivered  b@example.net  mx1.example.net [192.0.2.1]:25, TLSv1.3: 250 2.0.0 Ok``, without its line end.

    ``file`` is named if it is not empty; ``fold`` wraps the line at the width of the terminal.
    """
    word, style, _ = _WORDS[result.fate]
    text = line(word, style) + line(" " * (len(_INDENT) - len(word)))
    about = line(escape(result.recipient or "(no recipient)"), Style.STRONG)
    if file:
        about += line(f" ({escape(file)})", Style.FAINT)
    about += line(f": {_where(result)}{reason_of(result)}{_unnoticed(result)}")
    room = look.width - len(_INDENT) if fold else 1 << 30
    start = "".join(look.paint(piece.text, piece.style) for piece in text)
    lines = [painted(one, look) for one in wrap(about, room, room, look)]
    return start + f"\n{_INDENT}".join(lines)


def _where(result: Result) -> str:
    server = result.server
    if server is None or not result.names_server:
        return ""
    tls = f", {result.tls.protocol}" if result.tls is not None else ""
    if server.port and server.host == server.address:  # a literal has no other name
        return f"[{escape(server.address)}]:{server.port}{tls}: "
    return f"{escape(str(server))}{tls}: "


def reason_of(result: Result) -> str:
    """The reason in one line: a reply unchanged, any other text with the status code."""
    text = escape(result.reason)
    return text if result.reason == result.reply else f"{text} ({escape(result.status)})"


def _unnoticed(result: Result) -> str:
    """The remark that a requested notification of success will not be sent by any server."""
    return f"; no notification will come ({result.dsn_action})" if result.ok and result.dsn_action else ""


def untold(message: Outgoing, recipient: str, fate: Fate, status: str, text: str) -> Result:
    """The result of a recipient without one: deferred, or in doubt."""
    return Result(
        message=message.name,
        recipient=recipient,
        fate=fate,
        status=status,
        reason=text,
        text=text,
        attempted=False,
        dsn_action=due(message.dsn, "delayed", null_sender=not message.sender),
    )


def summary(results: list[Result], others: Mapping[str, int], earlier: Mapping[str, int]) -> Text:
    """The number of each result: ``3 delivered, 1 refused, 2 unusable; earlier: 12 delivered``."""
    text: Text = ()
    for fate, (word, style, _) in _WORDS.items():
        count = sum(result.fate is fate for result in results)
        if count:
            text += (line(", ") if text else ()) + line(f"{count} {word}", style)
    for word, count in others.items():
        if count:
            text += (line(", ") if text else ()) + line(f"{count} {word}", Style.BAD)
    before = ", ".join(f"{count} {word}" for word, count in earlier.items() if count)
    if before:
        text += line(f"{'; ' if text else ''}earlier: {before}")
    return text


def results_document(
    results: list[Result], status: Exit, left: RemainingWork, unusable: Iterable[UnusableMessage]
) -> dict[str, Any]:
    """The results as JSON (``zsmtp.send/1``), how many of ``left`` ended in earlier runs, and unusable messages."""
    return {
        "schema": SCHEMA,
        "status": int(status),
        "earlier": {"delivered": left.delivered, "failed": left.failed},
        "unusable": [{"message": one.name, "text": one.text} for one in unusable],
        "results": [result.as_dict() for result in results],
    }


def result_json(result: Result, again_in: float | None = None) -> str:
    """A result as one line of JSON (``zsmtp.send-result/1``); if not final, with the seconds until the next try."""
    again = None if again_in is None else round(again_in, 1)
    return json.dumps({"schema": RESULT_SCHEMA, **result.as_dict(), "again_in": again}) + "\n"


def unusable_json(one: UnusableMessage) -> str:
    """The line for a message that cannot be sent; its fate is ``unusable``, and it has no recipient."""
    said = {"message": one.name, "recipient": "", "fate": "unusable", "text": one.text}
    return json.dumps({"schema": RESULT_SCHEMA, **said}) + "\n"
