"""The phases of a session in one table: the command, how long to wait for its reply, and which codes mean success.

A 4xx or 5xx is a refusal in every phase. A 2xx or 3xx counts by its first digit, whether or not RFC 5321 lists the code
for the command (4.2.1 and 4.3.2: a client must take a code that it does not know by its first digit), with two
exceptions:

- The end of the content is answered by 250 to 259, where the second digit stands for the mail system (4.2.1). That
  reply transfers the responsibility for the message, so no other 2xx is taken for it: 221 closes the connection.
- STARTTLS is answered by 220 (RFC 3207 4). The reply comes in clear, so an attacker on the path may have written it,
  and both sides must agree on the octet behind it with which the handshake begins: that leaves no room for an unknown
  code.

Any other 2xx or 3xx breaks the dialogue. RFC 5321 4.5.3.2 gives the waits. The table is the only place
where this is written down; the session, the failure policy, the logs and the documentation read it.
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


# The phases of a transaction by short names: an enum's attribute takes 50 ns, a module's 4, and these are read dozens
# of times for each message. The results of judge() follow below.
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
    SHORT = "short"  # RSET and NOOP, which test whether an idle connection is still open
    QUIT = "quit"  # no result depends on it


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds; each bounds one whole wait, not the gap between octets.

    The defaults are those of the library, each independent of the other fields. The agent sets all of them (smtp(8),
    ``-T``).
    """

    connect: float = 30.0
    """A TCP connection."""
    write: float = 300.0
    """One block of at most 64 KiB to be taken by the transport."""
    command: float = 300.0
    """The greeting, and replies to commands."""
    data: float = 120.0
    """The 354 reply to DATA."""
    final: float = 600.0
    """The reply to the end of the content."""
    short: float = 30.0
    """The replies to RSET and NOOP."""
    quit: float = 5.0
    """The reply to QUIT, which changes nothing any more."""

    def of(self, wait: Wait) -> float:
        """The time for a kind of wait."""
        return float(getattr(self, wait.value))


@dataclass(frozen=True, slots=True)
class PhaseRule:
    """One row: the codes that mean success, the wait, and the activity in words."""

    success: range
    wait: Wait
    words: str

    @property
    def codes(self) -> str:
        """The codes that mean success, for people: ``220``, ``250-259``, ``2xx``, ``2xx or 3xx``."""
        first, last = self.success[0], self.success[-1]
        if first % 100 == 0 and last % 100 == 99:
            return " or ".join(f"{digit}xx" for digit in range(first // 100, last // 100 + 1))
        return str(first) if first == last else f"{first}-{last}"


_ANY_2XX, _ANY_3XX = range(200, 300), range(300, 400)
_TAKEN = range(250, 260)

RULES: dict[Phase, PhaseRule] = {
    Phase.GREETING: PhaseRule(_ANY_2XX, Wait.COMMAND, "waiting for the greeting"),
    Phase.EHLO: PhaseRule(_ANY_2XX, Wait.COMMAND, "sending EHLO"),
    Phase.HELO: PhaseRule(_ANY_2XX, Wait.COMMAND, "sending HELO"),
    Phase.LHLO: PhaseRule(_ANY_2XX, Wait.COMMAND, "sending LHLO"),
    Phase.MAIL: PhaseRule(_ANY_2XX, Wait.COMMAND, "sending MAIL FROM"),
    Phase.RCPT: PhaseRule(_ANY_2XX, Wait.COMMAND, "sending RCPT TO"),
    Phase.DATA: PhaseRule(_ANY_3XX, Wait.DATA, "sending DATA"),
    Phase.CONTENT: PhaseRule(_TAKEN, Wait.FINAL, "sending end of data"),
    Phase.BDAT: PhaseRule(_ANY_2XX, Wait.FINAL, "sending a chunk"),
    Phase.LAST: PhaseRule(_TAKEN, Wait.FINAL, "sending the last chunk"),
    Phase.STARTTLS: PhaseRule(range(220, 221), Wait.COMMAND, "sending STARTTLS"),
    Phase.AUTH: PhaseRule(range(200, 400), Wait.COMMAND, "logging in"),
    Phase.RSET: PhaseRule(_ANY_2XX, Wait.SHORT, "sending RSET"),
    Phase.NOOP: PhaseRule(_ANY_2XX, Wait.SHORT, "sending NOOP"),
    Phase.QUIT: PhaseRule(_ANY_2XX, Wait.QUIT, "sending QUIT"),
}


@lru_cache(16)
def reply_times(timeouts: Timeouts) -> dict[Phase, float]:
    """The time to wait for the reply in each phase, in seconds. All sessions share the dict: do not change it."""
    return {phase: timeouts.of(rule.wait) for phase, rule in RULES.items()}


FINAL_PHASES = frozenset({Phase.CONTENT, Phase.LAST})


class ReplyMeaning(Enum):
    """What a reply means in its phase."""

    SUCCESS = "success"
    TRANSIENT = "transient refusal"  # 4xx
    PERMANENT = "permanent refusal"  # 5xx
    DISORDER = "disorder"  # 2xx or 3xx that is no success in this phase


SUCCESS, TRANSIENT, PERMANENT, DISORDER = (
    ReplyMeaning.SUCCESS,
    ReplyMeaning.TRANSIENT,
    ReplyMeaning.PERMANENT,
    ReplyMeaning.DISORDER,
)


@lru_cache(256)
def judge(phase: Phase, code: int) -> ReplyMeaning:
    """What the reply ``code`` means in ``phase`` (RFC 5321 4.2.1 and 4.3.2)."""
    if code >= 500:
        return ReplyMeaning.PERMANENT
    if code >= 400:
        return ReplyMeaning.TRANSIENT
    return ReplyMeaning.SUCCESS if code in RULES[phase].success else ReplyMeaning.DISORDER
