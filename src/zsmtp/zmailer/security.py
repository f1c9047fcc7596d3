"""Makes the security configuration of sessions from the files of ``-S`` and ``-A``, and from ZENV."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from zsmtp.delivery.security import Security
from zsmtp.errors import ConfigError
from zsmtp.net.blocking import BlockingDriver
from zsmtp.proto.sasl import Credentials
from zsmtp.tls.context import ClientCertificate, ContextOptions, client_context
from zsmtp.tls.policy import Level, STSUse, TLSPolicy
from zsmtp.tls.tlsrpt import SessionResult
from zsmtp.zmailer.authfile import AuthFile
from zsmtp.zmailer.options import AgentOptions
from zsmtp.zmailer.tlsconf import TLSConfig, load, read_sts_use
from zsmtp.zmailer.zenv import Zenv

DEFAULT_POSTOFFICE = "/var/spool/postoffice"
POLICY_CACHE = "mta-sts.db"  # below POSTOFFICE


@dataclass(frozen=True, slots=True)
class Asked:
    """The security configuration of sessions, and the file of the MTA-STS policy cache."""

    security: Security
    policy_cache: str


def read_security(options: AgentOptions, zenv: Zenv, warn: Callable[[str], None]) -> Asked:
    """Read the configured files. ZENV supplies settings that the file of ``-S`` leaves open.

    Raises OSError for a file that cannot be read, :class:`~zsmtp.errors.ConfigError` for an invalid one.
    """
    config = _read_tls(options, warn)
    logins = AuthFile.load(options.auth_file) if options.auth_file is not None else None
    for remark in logins.remarks if logins is not None else ():
        warn(remark)
    mta_sts = config.mta_sts if config is not None else None
    if mta_sts is None:
        mta_sts = _switch(zenv, "TLS_MTA_STS", warn)
    dane = _switch(zenv, "TLS_DANE", warn) is not STSUse.OFF

    def policy_for(destination: str) -> TLSPolicy:
        if config is None:
            return TLSPolicy(level=Level.NONE, dane=dane)  # STARTTLS only if the destination's own policy requires it
        policy = config.policy_for(destination)
        return replace(policy, dane=True) if dane and config.dane is None else policy

    def credentials_for(server: str, destination: str) -> Credentials | None:
        return logins.credentials(options.channel, server, destination) if logins is not None else None

    security = Security(
        policy_for=policy_for,
        credentials_for=credentials_for,
        nonce=lambda: base64.b64encode(os.urandom(24)),
        context=_context(config) if config is not None else ContextOptions(),
        ca_file=config.ca_file if config is not None else "",
        ca_path=config.ca_path if config is not None else "",
        mta_sts=mta_sts,
        log_level=config.log_level if config is not None else 0,
        session_lifetime=float(config.session_timeout) if config is not None else 0.0,
        implicit=config is not None and config.implicit,
        allow_cleartext=logins is not None and logins.allow_cleartext,
        login_required=logins is not None and logins.require_login,
        report=_report_to(config.report_file, warn) if config is not None and config.report_file else None,
        warn=warn,
        failure_is_final=zenv.get("TLS_DEMAND_FAILURE").lower() == "error",
    )
    cache = config.policy_cache if config is not None else ""
    return Asked(security, cache or os.path.join(zenv.get("POSTOFFICE") or DEFAULT_POSTOFFICE, POLICY_CACHE))


def equip(driver: BlockingDriver, asked: Asked, warn: Callable[[str], None]) -> None:
    """Prepare the driver for the configuration."""
    security = asked.security
    if security.mta_sts is not STSUse.OFF:
        from zsmtp.net.stspolicies import PolicyKeeper

        driver.policies = PolicyKeeper(asked.policy_cache, warn, ca_file=security.ca_file, ca_path=security.ca_path)


def _report_to(path: str, warn: Callable[[str], None]) -> Callable[[SessionResult], None]:
    """A function that records results of sessions."""
    from zsmtp.net.reportsink import report_to

    return report_to(path, warn)


def _switch(zenv: Zenv, name: str, warn: Callable[[str], None]) -> STSUse:
    """ZENV's switch for policies that destinations publish: an invalid value means on, the safer choice."""
    word = zenv.get(name)
    if not word:
        return STSUse.OFF
    try:
        return read_sts_use(word)
    except ConfigError as error:
        warn(f"{zenv.name}: {name}: {error}; taken as on")
        return STSUse.ON


def _read_tls(options: AgentOptions, warn: Callable[[str], None]) -> TLSConfig | None:
    if options.tls_conf is None:
        return None
    config = load(options.tls_conf)
    for remark in config.remarks:
        warn(remark)
    client_context(_context(config))  # report an invalid certificate or cipher list now
    return config


def _context(config: TLSConfig) -> ContextOptions:
    pairs = ((config.cert_file, config.key_file), (config.dcert_file, config.dkey_file))
    certificates = tuple(ClientCertificate(cert, key) for cert, key in pairs if cert)
    return ContextOptions(min_protocol=config.min_protocol, ciphers=config.cipher_list, certificates=certificates)
