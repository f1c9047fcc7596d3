"""Names of a listener's client: in the queue, in logs, in replies to it, and in the field Received."""

from __future__ import annotations

from zsmtp.escape import escape
from zsmtp.server.intake import PeerInfo, SessionInfo


def origin_of(session: SessionInfo) -> str:
    """The origin of a message, for operators: ``smtp 192.0.2.1 login ann``, ``lmtp uid 1000``."""
    peer = session.peer
    kind = "lmtp" if session.protocol.startswith("LMTP") else "smtp"
    where = peer.address or f"uid {peer.uid}"
    return f"{kind} {where}" if session.user is None else f"{kind} {where} login {escape(session.user[:80])}"


def shown_peer(peer: PeerInfo) -> str:
    """A client for logs."""
    return f"[{peer.address}]:{peer.port}" if peer.address else shown_process(peer)


def shown_client(session: SessionInfo) -> str:
    """A client in replies to it."""
    if session.user is not None:
        return escape(session.user[:80])
    return f"a client at {session.peer.address}" if session.peer.address else f"uid {session.peer.uid}"


def shown_process(peer: PeerInfo) -> str:
    """A client at a UNIX socket."""
    return f"uid {peer.uid}" if peer.uid >= 0 else "a process of this machine"


def tagged(address: str) -> str:
    """An address in the form of address literals (RFC 5321 4.1.3)."""
    return f"IPv6:{address.partition('%')[0]}" if ":" in address else address
