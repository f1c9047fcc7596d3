"""From the files of ``-S`` and ``-A`` to what is asked of sessions."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

from zsmtp.delivery.security import Security
from zsmtp.errors import ConfigError
from zsmtp.proto.sasl import Credentials
from zsmtp.tls.context import ClientCertificate, ContextOptions, client_context
from zsmtp.tls.policy import Level, Policy
from zsmtp.zmailer.authfile import AuthFile
from zsmtp.zmailer.options import Options
from zsmtp.zmailer.tlsconf import STSUse, TLSConfig, load
from zsmtp.zmailer.zenv import Zenv


def read_security(options: Options, zenv: Zenv, complain: Callable[[str], None]) -> Security:
    """Read the files that were named.

    Raises OSError for one that cannot be read, :class:`~zsmtp.errors.ConfigError` for one that cannot be used.
    """
    config = _read_tls(options, complain)
    logins = AuthFile.load(options.auth_file) if options.auth_file is not None else None
    for remark in logins.remarks if logins is not None else ():
        complain(remark)

    def policy_for(destination: str) -> Policy:
        return config.policy_for(destination) if config is not None else Policy(level=Level.NONE)

    def credentials_for(server: str, destination: str) -> Credentials | None:
        return logins.credentials(options.channel, server, destination) if logins is not None else None

    return Security(
        policy_for=policy_for,
        credentials_for=credentials_for,
        nonce=lambda: base64.b64encode(os.urandom(24)),
        context=_context(config) if config is not None else ContextOptions(),
        ca_file=config.ca_file if config is not None else "",
        ca_path=config.ca_path if config is not None else "",
        implicit=config is not None and config.implicit,
        allow_cleartext=logins is not None and logins.allow_cleartext,
        failure_is_final=zenv.get("TLS_DEMAND_FAILURE").lower() == "error",
    )


def _read_tls(options: Options, complain: Callable[[str], None]) -> TLSConfig | None:
    if options.tls_conf is None:
        return None
    config = load(options.tls_conf)
    for remark in config.remarks:
        complain(remark)
    if config.mta_sts not in (None, STSUse.OFF):
        raise ConfigError(f"{config.path}: tls-mta-sts: this release does not look policies up; nothing is sent")
    if config.report_file:
        complain(f"{config.path}: tls-report-file: this release writes no reports")
    client_context(_context(config))  # a certificate or cipher list that cannot be used is to be known now
    return config


def _context(config: TLSConfig) -> ContextOptions:
    pairs = ((config.cert_file, config.key_file), (config.dcert_file, config.dkey_file))
    certificates = tuple(ClientCertificate(cert, key) for cert, key in pairs if cert)
    return ContextOptions(min_protocol=config.min_protocol, ciphers=config.cipher_list, certificates=certificates)
