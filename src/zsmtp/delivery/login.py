"""The login of a session (RFC 4954): mechanisms in turn, until one is accepted.

The secret is hidden from observers before it is used. The mechanism that a server accepted last is tried first
(:class:`~zsmtp.delivery.security.AcceptedMechanisms`).
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from zsmtp.delivery.outcome import Peer, from_login, from_loss, waited_in_vain
from zsmtp.delivery.protection import NotSecured
from zsmtp.delivery.sessionopener import next_reply
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.ip import is_loopback
from zsmtp.effects import ReadClock, Stream
from zsmtp.errors import Interrupted, ZsmtpError
from zsmtp.events import About, Observer, Remark
from zsmtp.proto import auth, sasl
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase
from zsmtp.proto.session import Lost, Session
from zsmtp.tls.certificate import server_end_point
from zsmtp.tls.facts import TLSFacts

if TYPE_CHECKING:
    from zsmtp.delivery.security import Security


async def log_in(
    security: Security,
    observe: Observer,
    stream: Stream,
    session: Session,
    offered: Capabilities,
    credentials: sasl.Credentials,
    peer: Peer,
) -> NotSecured | None:
    """Do AUTH with a server that offers it; returns None if that went well."""
    facts = peer.protection.facts if peer.protection is not None else None
    place = (peer.endpoint.host, peer.endpoint.port, credentials.user)
    now = await ReadClock()
    choice = sasl.MechanismChoice(
        offered.auth,
        credentials,
        cleartext_allowed=facts is not None or security.allow_cleartext or _stays_here(peer.endpoint),
        bindings=_bindings(stream, facts),
        nonce=security.nonce,
        first=security.accepted.get(place, now),
    )
    secret = credentials.secret.reveal()
    session.hide((secret, b64encode(secret)))  # a server may repeat the secret in its replies
    while not isinstance(chosen := choice.next(), sasl.NoMechanism):
        ended = await _authenticate(stream, session, chosen)
        if isinstance(ended, Lost):
            return _login_lost(ended.error, peer)
        if isinstance(ended, auth.LoginAccepted):
            security.accepted.remember(place, ended.mechanism, now)
            observe(Remark(f"logged in with {ended.mechanism}", About.SECURITY))
            return None
        observe(Remark(ended.reason, About.SECURITY))
        choice.refused(ended)
    security.accepted.forget(place)
    return NotSecured(from_login(chosen.reason, peer), in_order=True)


def _stays_here(endpoint: Endpoint) -> bool:
    return endpoint.family is Family.UNIX or is_loopback(endpoint.address)


async def _authenticate(
    stream: Stream, session: Session, mechanism: auth.Mechanism
) -> auth.LoginAccepted | auth.Refused | Lost:
    """Do the AUTH exchange of one mechanism."""
    login = auth.Authentication(mechanism)
    step: auth.Line | auth.LoginAccepted | auth.Refused = login.start()
    while isinstance(step, auth.Line):
        session.command(Phase.AUTH, step.wire, shown=step.shown)
        answer = await next_reply(stream, session)
        if isinstance(answer, Lost):
            return answer
        step = login.receive(answer.reply)
    return step


def _login_lost(error: ZsmtpError, peer: Peer) -> NotSecured:
    """The result of a login cut short by this side: it does not count as a failed login."""
    if isinstance(error, Interrupted):
        return NotSecured(from_loss(error, "", peer), interrupted=True)
    return NotSecured(from_login(str(error), peer), unanswered=waited_in_vain(error))


def _bindings(stream: Stream, facts: TLSFacts | None) -> list[sasl.ChannelBinding]:
    """The channel bindings of this TLS session for a login, best first.

    RFC 9266 4: keying material of the session itself; RFC 5929 4: a digest of the server's certificate.
    """
    leaf = facts.leaf if facts is not None else None
    found = {"tls-exporter": stream.exporter, "tls-server-end-point": server_end_point(leaf) if leaf else None}
    return [sasl.ChannelBinding(name, data) for name, data in found.items() if data]
