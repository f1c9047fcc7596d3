"""The phases of a session in one table: what is waited for, how long, and what counts as success.

RFC 5321 4.3.2 gives each command its set of codes, 4.5.3.2 the waits. A 4xx or 5xx is a refusal in every phase; a 2xx
or 3xx outside the phase's set is never a success: it is a broken dialogue. The table is the only place where this is
written down; the session, the failure policy, the logs and the documentation read it.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

from zsmtp.records import dataclass


class Phase(Enum):
    """A step of the dialogue that is answered by one reply."""

    GREETING = "greeting"
    EHLO = "EHLO"
    HELO = "HELO"
    LHLO = "LHLO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "end of data"  # the final dot; LMTP: one reply for each accepted recipient
    BDAT = "BDAT"  # a chunk that is not the last one
    LAST = "BDAT LAST"  # the last chunk; LMTP: one reply for each accepted recipient
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"  # the command, and each further line of the login
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"

    __hash__ = object.__hash__


# The phases of a transaction by short names: a class of constants is asked in 50 ns, a module in 4, and these are asked
# dozens of times for each message. The results of judge() follow below.
MAIL, RCPT, DATA, CONTENT, BDAT, LAST, RSET = (
    Phase.MAIL,
    Phase.RCPT,
    Phase.DATA,
    Phase.CONTENT,
    Phase.BDAT,
    Phase.LAST,
    Phase.RSET,
)


class Wait(Enum):
    """Which of the configured times bounds the wait for a reply."""

    COMMAND = "command"
    DATA = "data"
    FINAL = "final"
    SHORT = "short"  # RSET and NOOP, which find out whether an idle connection still lives
    QUIT = "quit"  # mere politeness


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds; each bounds one whole wait, not the gap between octets.

    ``connect`` a TCP connection; ``write`` one block of at most 64 KiB taken by the transport; ``command`` the greeting
    and the replies to commands; ``data`` the 354; ``final`` the reply to the final dot; ``short`` the
    replies to RSET and NOOP; ``quit`` the one to QUIT, which changes nothing any more.
    """

    connect: float = 180.0
    write: float = 300.0
    command: float = 300.0
    data: float = 120.0
    final: float = 1200.0
    short: float = 30.0
    quit: float = 10.0

    def of(self, wait: Wait) -> float:
        """The time for a kind of wait."""
        return float(getattr(self, wait.value))


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the codes that mean success (None: any 2xx), the wait, and how people say what is being done."""

    success: frozenset[int] | None
    wait: Wait
    words: str


RULES: dict[Phase, Rule] = {
    Phase.GREETING: Rule(frozenset({220}), Wait.COMMAND, "waiting for the greeting"),
    Phase.EHLO: Rule(None, Wait.COMMAND, "sending EHLO"),
    Phase.HELO: Rule(None, Wait.COMMAND, "sending HELO"),
    Phase.LHLO: Rule(None, Wait.COMMAND, "sending LHLO"),
    Phase.MAIL: Rule(None, Wait.COMMAND, "sending MAIL FROM"),
    Phase.RCPT: Rule(frozenset({250, 251, 252}), Wait.COMMAND, "sending RCPT TO"),
    Phase.DATA: Rule(frozenset({354}), Wait.DATA, "sending DATA"),
    Phase.CONTENT: Rule(None, Wait.FINAL, "sending end of data"),
    Phase.BDAT: Rule(None, Wait.FINAL, "sending a chunk"),
    Phase.LAST: Rule(None, Wait.FINAL, "sending the last chunk"),
    Phase.STARTTLS: Rule(frozenset({220}), Wait.COMMAND, "sending STARTTLS"),
    Phase.AUTH: Rule(frozenset({235, 334}), Wait.COMMAND, "logging in"),
    Phase.RSET: Rule(None, Wait.SHORT, "sending RSET"),
    Phase.NOOP: Rule(None, Wait.SHORT, "sending NOOP"),
    Phase.QUIT: Rule(None, Wait.QUIT, "sending QUIT"),
}

FINAL_PHASES = frozenset({Phase.CONTENT, Phase.LAST})


class Result(Enum):
    """What a reply means in its phase."""

    SUCCESS = "success"
    TRANSIENT = "transient refusal"  # 4xx
    PERMANENT = "permanent refusal"  # 5xx
    DISORDER = "disorder"  # 2xx or 3xx that this phase has no use for


SUCCESS, TRANSIENT, DISORDER = Result.SUCCESS, Result.TRANSIENT, Result.DISORDER


@lru_cache(256)
def judge(phase: Phase, code: int) -> Result:
    """What the reply ``code`` means in ``phase`` (RFC 5321 4.2.1 and 4.3.2)."""
    if code >= 500:
        return Result.PERMANENT
    if code >= 400:
        return Result.TRANSIENT
    success = RULES[phase].success
    good = code < 300 if success is None else code in success
    return Result.SUCCESS if good else Result.DISORDER
