"""The authority of the interoperation tests, and the certificates of its servers, made anew with each farm.

Every server's certificate speaks for 127.0.0.1, for ``PROGRAM.interop.test`` and for the names one label below the
zones of ``zones.py``; the file holds the key, the certificate and the authority's, since who is to be authenticated
by DANE-TA must send the certificate that a TLSA record names (RFC 7671 5.2)::

    authority = Authority(root / "etc/interop-pki")
    authority.issue("postfix")
    authority.leaf("postfix")      # in DER
"""

from __future__ import annotations

import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

NAMES = ("127.0.0.1", "*.signed.test", "*.insecure.test")
"""What each certificate speaks for beside the server's own name."""


class Authority:
    """A certificate authority whose files lie in ``directory``; what lay there is removed."""

    def __init__(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self.directory = directory
        self._authority = trustme.CA(organization_name="Interoperation tests")
        self.file = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate in DER."""
        return ssl.PEM_cert_to_DER_cert(self.file.read_text())

    def issue(self, name: str, *, owner: int = 0, rsa: bool = False) -> Path:
        """Make ``name.pem``, readable by ``owner`` only: key, certificate and the authority's certificate."""
        kind = trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA
        made = self._authority.issue_cert(f"{name}.interop.test", *NAMES, key_type=kind)
        path = self.directory / f"{name}.pem"
        path.touch(mode=0o600)
        shutil.chown(path, owner, owner)
        made.private_key_and_cert_chain_pem.write_to_path(str(path), append=True)
        self._authority.cert_pem.write_to_path(str(path), append=True)
        return path

    def context(self, *names: str, days: int = 30) -> ssl.SSLContext:
        """What a server in this process needs to speak for these names, until so many days from now."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        until = datetime.now(UTC) + timedelta(days=days)
        self._authority.issue_cert(*names, not_after=until).configure_cert(context)
        return context

    def leaf(self, name: str) -> bytes:
        """The certificate of ``name`` in DER."""
        blocks = (self.directory / f"{name}.pem").read_text().split("-----BEGIN CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(
            "-----BEGIN CERTIFICATE-----" + blocks[1].partition("-----END")[0] + "-----END CERTIFICATE-----"
        )
