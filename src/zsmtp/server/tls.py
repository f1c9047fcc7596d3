"""The TLS of a listener: one certificate with its key, and its channel bindings for logins (RFC 5929).

The requirements on clients are those of ``zsmtp.tls.context`` on servers: TLS 1.2 at least (RFC 8996, RFC 9325), no
renegotiation, no compression. The channel binding is ``tls-server-end-point``, a hash of the certificate, so there is
one certificate per listener; a listener gets another value of :class:`ServerTLS` when the files have changed.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.proto.sasl import ChannelBinding
from zsmtp.tls.certificate import read_certificate, server_end_point

MAX_PEM = 1 << 20  # octets


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """A context for handshakes, and the channel bindings of its certificate."""

    context: ssl.SSLContext
    bindings: tuple[ChannelBinding, ...]


def server_tls(certificate_file: str, key_file: str = "", *, min_protocol: str = "TLSv1.2") -> ServerTLS:
    """Read a certificate with its chain, and its key ("": in the same file). Raises ConfigError naming the file.

    ``min_protocol`` is "TLSv1.2" or "TLSv1.3".
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    versions = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
    if min_protocol not in versions:
        raise ConfigError(f"not a protocol for a server: {min_protocol!r}; known: {' '.join(versions)}")
    context.minimum_version = versions[min_protocol]
    try:
        pem = Path(certificate_file).read_bytes()[:MAX_PEM]
        Path(key_file or certificate_file).read_bytes()  # OpenSSL does not name the unreadable one of the two
        context.load_cert_chain(certificate_file, key_file or None, _refuse_passphrase)
        der = ssl.PEM_cert_to_DER_cert(_first_certificate(pem))
        binding = server_end_point(read_certificate(der))
    except ssl.SSLError as error:
        raise ConfigError(f"{escape(certificate_file)}, {escape(key_file)}: {error.reason or error}") from error
    except OSError as error:
        raise ConfigError(f"{escape(error.filename or certificate_file)}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{escape(certificate_file)}: {error}") from error
    bindings = (ChannelBinding("tls-server-end-point", binding),) if binding is not None else ()
    return ServerTLS(context, bindings)


def _refuse_passphrase() -> bytes:
    """Refuse a passphrase: otherwise OpenSSL would prompt on the terminal, and wait."""
    raise ValueError("its key is encrypted")


def _first_certificate(pem: bytes) -> str:
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    start = pem.find(begin)
    stop = pem.find(end, start)
    if start < 0 or stop < 0:
        raise ValueError("no certificate in it")
    return pem[start : stop + len(end)].decode("ascii")
