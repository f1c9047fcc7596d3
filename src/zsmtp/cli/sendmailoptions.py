"""The command line of sendmail(8): the options with an effect, and those that are accepted and ignored.

Options are single letters that may be combined (``-ti``); a value follows its letter at once or as the next word. The
first word that is no option begins the recipients. Options about a daemon, a queue directory or a configuration file of
another program have no meaning here, and programs that pass them must not fail: those letters are in the table with
their way of taking values. A letter that no sendmail has is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from zsmtp.client.dsn import DSN
from zsmtp.errors import SubmissionError
from zsmtp.escape import escape

OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("-t", "", "take the recipients of To, Cc and Bcc too, and remove Bcc"),
    ("-i, -oi", "", "a line with a single dot does not end the message"),
    ("-f", "address", "the sender (also -r); default: the user, at this machine"),
    ("-F", "name", "the full name for an added From field"),
    ("-N", "words", "when to notify the sender: success, failure, delay, or never"),
    ("-R", "part", "the part of the message in a notice: full or hdrs"),
    ("-V", "text", "the envelope identifier that notices repeat"),
    ("-bp", "", "list the queue: own messages, or as root all (also: mailq)"),
    ("-q", "", "try to deliver the queue now"),
    ("--help", "", "show this text"),
)
"""The options with an effect here: their names, the name of the value ("" for a flag), and their meaning."""

_LISTED = "".join(f"  {f'{names} {value}'.rstrip():<12} {meaning}\n" for names, value, meaning in OPTIONS)
HELP = f"""\
Usage: zsmtp-sendmail [options] [recipient ...] <message

Queue the message on standard input, as programs expect it of sendmail(8).
zsmtp serve delivers it. Status 0 means that the message is on the disk.

{_LISTED}
ZSMTP_QUEUE names the queue (/var/lib/zsmtp/queue.db), ZSMTP_CONFIG the
configuration of a client or of the service. Other options of sendmail(8) are
accepted without effect, or refused with the reason. zsmtp-sendmail(1)
describes them all.
"""
"""The output of ``--help``."""


class SendmailMode(Enum):
    """The operation."""

    SUBMIT = "m"
    """Take a message from standard input."""
    LIST = "p"
    """List the queue."""
    FLUSH = "q"
    """Try what is queued now."""
    ALIASES = "i"
    """Rebuild the database of aliases."""


class Value(Enum):
    """The form of a letter's value."""

    NONE = "none"
    NEEDED = "needed"
    """The rest of the word, or the next word."""
    ATTACHED = "attached"
    """The rest of the word, which may be empty."""


class UsageProblem(Exception):
    """An invalid command line; ``str()`` is the reason."""


@dataclass(slots=True)
class SendmailOptions:
    """A parsed command line."""

    mode: SendmailMode = SendmailMode.SUBMIT
    recipients: list[str] = field(default_factory=list)
    from_header: bool = False
    """``-t``: To, Cc and Bcc add recipients, and Bcc is removed."""
    dots: bool = True
    """Whether a line with a single dot ends the message."""
    sender: str | None = None
    """The reverse-path; None: the user's."""
    full_name: str | None = None
    """The user's name for an added From field; None: the system's."""
    notify: str = ""
    ret: str = ""
    envid: str = ""
    show_help: bool = False
    """``--help``: print :data:`HELP` only."""

    def dsn(self) -> DSN | None:
        """The notifications that the sender wants. Raises UsageProblem."""
        if not (self.notify or self.ret or self.envid):
            return None
        ret = _RETURNED.get(self.ret.lower(), self.ret)
        try:
            return DSN(notify=self.notify.lower(), ret=ret, envid=self.envid)
        except SubmissionError as error:
            raise UsageProblem(str(error)) from None


_RETURNED = {"hdrs": "headers"}
_LETTERS = {
    **dict.fromkeys("cGIimnsTtUv", Value.NONE),
    **dict.fromkeys("ABbCDFfhLMNOopRrVX", Value.NEEDED),
    **dict.fromkeys("deQqx", Value.ATTACHED),
}
_DAEMON = {
    "d": "no daemon: zsmtp serve listens for mail",
    "D": "no daemon: zsmtp serve listens for mail",
    "l": "no daemon: zsmtp serve listens for mail",
    "s": "no SMTP on standard input: give the message itself, or connect to zsmtp serve",
    "a": "no ARPANET mode: give the message itself",
    "v": "addresses are not verified: zsmtp explain shows where mail for them would go",
    "t": "there are no rewriting rules to test: zsmtp explain shows where mail would go",
    "h": "host status is shown by: zsmtp queue shape",
    "H": "host status belongs to the queue: zsmtp queue shape shows it",
    "P": "the queue is counted by: zsmtp queue count",
}


def read_options(name: str, arguments: Sequence[str]) -> SendmailOptions:
    """Parse a command line; ``name`` is that of the program, which may be ``mailq`` or ``newaliases``.

    Raises UsageProblem.
    """
    options = SendmailOptions()
    if name in _BY_NAME:
        options.mode = _BY_NAME[name]
    words = list(arguments)
    while words:
        word = words[0]
        if word == "--help":
            options.show_help = True
            return options
        if word == "--" or word == "-" or not word.startswith("-"):
            break
        words.pop(0)
        _read_word(options, word, words)
    options.recipients = words[1:] if words[:1] == ["--"] else words
    return options


_BY_NAME = {"mailq": SendmailMode.LIST, "newaliases": SendmailMode.ALIASES}


def _read_word(options: SendmailOptions, word: str, following: list[str]) -> None:
    """Parse the letters of one word."""
    at = 1
    while at < len(word):
        letter = word[at]
        at += 1
        kind = _LETTERS.get(letter)
        if kind is None:
            raise UsageProblem(f"-{escape(letter)} is no option of sendmail")
        if kind is Value.NONE:
            _apply(options, letter, "")
            continue
        value = word[at:]
        if not value and kind is Value.NEEDED:
            if not following:
                raise UsageProblem(f"-{letter} needs a value")
            value = following.pop(0)
        _apply(options, letter, value)
        return


def _apply(options: SendmailOptions, letter: str, value: str) -> None:
    match letter:
        case "t":
            options.from_header = True
        case "i":
            options.dots = False
        case "I":
            options.mode = SendmailMode.ALIASES
        case "f" | "r":
            options.sender = value
        case "F":
            options.full_name = value
        case "N":
            options.notify = value
        case "R":
            options.ret = value
        case "V":
            options.envid = value
        case "b":
            _choose_mode(options, value)
        case "q":
            _flush(options, value)
        case "o":
            if value == "i":
                options.dots = False
        case "O":
            name, _, setting = value.partition("=")
            if name.strip().lower() == "ignoredots" and setting.strip().lower() not in ("false", "f", "no", "n"):
                options.dots = False
        case _:
            pass


def _choose_mode(options: SendmailOptions, value: str) -> None:
    if value in _DAEMON:
        raise UsageProblem(f"-b{value}: {_DAEMON[value]}")
    try:
        mode = SendmailMode(value)
    except ValueError:
        raise UsageProblem(f"-b{escape(value[:20])} is no mode of sendmail") from None
    if mode is SendmailMode.FLUSH:
        raise UsageProblem("-bq is no mode of sendmail")
    options.mode = mode


def _flush(options: SendmailOptions, value: str) -> None:
    if value[:1] in ("f", "p", "") and not value[1:].isdigit():
        options.mode = SendmailMode.FLUSH
    else:
        raise UsageProblem(
            f"-q{escape(value[:20])}: zsmtp serve tries the queue by itself; zsmtp queue now tries a part of it"
        )
