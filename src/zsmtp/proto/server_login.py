"""One AUTH exchange of a server session: base64 and lines for the mechanisms of ``zsmtp.proto.server_auth``.

RFC 4954 4: a response is a line of base64, ``=`` as an initial response is an empty one, ``*`` cancels.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode

from zsmtp.proto.auth import MAX_RESPONSE
from zsmtp.proto.reply import Reply
from zsmtp.proto.sasl import ChannelBinding
from zsmtp.proto.server_auth import Challenge, Claim, Malformed, ServerExchange, make_exchange
from zsmtp.proto.server_passwords import Passwords
from zsmtp.proto.server_replies import LOGIN_CANCELLED, LOGIN_MALFORMED, LOGIN_TOO_LONG, make_reply


class LoginDialogue:
    """Runs the exchange of one login, line by line."""

    __slots__ = ("_exchange", "mechanism")

    def __init__(
        self, mechanism: str, passwords: Passwords, *, bindings: tuple[ChannelBinding, ...], nonce: bytes
    ) -> None:
        self.mechanism = mechanism
        self._exchange: ServerExchange = make_exchange(mechanism, passwords, bindings=bindings, nonce=nonce)

    def begin(self, initial: bytes | None) -> bytes | Claim | Reply:
        """Process the AUTH command: returns octets to send, a claim to check, or the refusal."""
        if initial is None:
            return self._follow(self._exchange.respond(None))
        return self._respond(b"" if initial == b"=" else initial)

    def take(self, line: bytes) -> bytes | Claim | Reply:
        """Process a line of the client, with its line end; returns as :meth:`begin` does."""
        if len(line) > MAX_RESPONSE:
            return LOGIN_TOO_LONG
        if not line.endswith(b"\r\n"):
            return LOGIN_MALFORMED
        return LOGIN_CANCELLED if line == b"*\r\n" else self._respond(line[:-2])

    def _respond(self, text: bytes) -> bytes | Claim | Reply:
        try:
            response = b64decode(text, validate=True)
        except ValueError:
            return LOGIN_MALFORMED
        return self._follow(self._exchange.respond(response))

    def _follow(self, step: Challenge | Claim | Malformed) -> bytes | Claim | Reply:
        if isinstance(step, Challenge):
            return b"334 " + b64encode(step.data) + b"\r\n"
        return make_reply(501, "5.5.2", step.text) if isinstance(step, Malformed) else step


def fresh_nonce(seed: bytes, number: int) -> bytes:
    """A nonce for the ``number``-th login of a session whose ``seed`` is random."""
    return b64encode(hmac.digest(seed, b"nonce %d" % number, "sha256")[:24])
