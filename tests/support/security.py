"""What deliveries over a scripted network ask in the way of TLS, and servers that have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.tls.certificates import NOW, Issued, issue

from zsmtp.delivery.security import Security
from zsmtp.delivery.settings import SessionSettings
from zsmtp.net.script import Script
from zsmtp.tls.facts import TLSFacts
from zsmtp.tls.policy import TLSPolicy

SECURED = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "x25519")


@dataclass(frozen=True)
class Authority:
    """A certificate authority and the servers it vouches for."""

    root: Issued

    @classmethod
    def new(cls) -> Authority:
        """A fresh one."""
        return cls(issue("Root", ca=True, now=NOW))

    @property
    def anchors(self) -> tuple[bytes, ...]:
        return (self.root.der,)

    def facts(self, *names: str) -> TLSFacts:
        """A handshake with a server that has a good certificate for ``names``."""
        return replace(SECURED, chain=issue("mx", by=self.root, names=names, now=NOW).chain)

    def server(self, *names: str, keywords: Sequence[str] = (), **more: Any) -> Script:
        """A server that offers STARTTLS, with such a certificate."""
        return Script(keywords=("STARTTLS", *keywords), tls=self.facts(*names), **more)


def asking(policy: TLSPolicy, **more: Any) -> SessionSettings:
    """Settings for sessions under ``policy``, for every destination; ``more`` are fields of ``Security``."""
    usual: dict[str, Any] = {
        "policy_for": lambda destination: policy,
        "credentials_for": lambda server, destination: None,
        "nonce": lambda: b"nonce",
    }
    security = Security(**usual | more)
    return SessionSettings(helo_name="client.example", security=security)
