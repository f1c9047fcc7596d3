"""Parses the file of ``-S``: whether and how TLS is used (``zsmtp-tls.conf(5)`` lists every keyword).

Lines are ``keyword value``; ``#`` and ``;`` start comments; keywords are compared without case and hyphens, because
both spellings exist. :func:`load` returns a :class:`TLSConfig`; :meth:`TLSConfig.policy_for` is its policy for a
destination, including the table of ``tls-policy-file``.

Mail is never sent with less protection than configured, and a mistake in the file must not weaken it: if the file
requires TLS, or an invalid value may have been meant to, an error is an exception, and the agent does not start (exit
66 for an unreadable file, 78 for a value). If the file requires nothing, the same error is a remark, and there is no
TLS. An invalid line of the table concerns its destination only: mail to it waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.tls.policy import Level, STSUse, TLSPolicy
from zsmtp.zmailer.configfile import read_config_file
from zsmtp.zmailer.tlstable import (
    PolicyTable,
    check_policy,
    is_demanding,
    parse_table,
    read_fingerprints,
    read_host,
    read_level,
    read_names,
    significant_lines,
)

FILE_LIMIT = 1 << 20  # octets
TABLE_LIMIT = 1 << 23  # octets
LONGEST_SESSION = 7 * 86400  # seconds
PROTOCOLS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

_TRUE = frozenset({"", "1", "y", "yes", "true", "on"})
_FALSE = frozenset({"0", "n", "no", "false", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSConfig:
    """The content of the file. Absent paths and texts are "".

    ``policy`` is for destinations not in the table; its level is NONE if TLS is off. ``cert_file``/``key_file`` and
    ``dcert_file``/``dkey_file`` are pairs of PEM files; without a key file the certificate's is used.
    ``session_timeout`` is in seconds, 0 without resumption. ``dane`` and ``mta_sts`` are None if the file leaves them
    to ZENV; ``policy_cache`` is the file of the MTA-STS policy cache. ``implicit`` means TLS from the first octet,
    without STARTTLS (RFC 8314 3.3). ``remarks`` are for standard error.
    """

    path: str
    policy: TLSPolicy = TLSPolicy()  # noqa: RUF009
    cert_file: str = ""
    key_file: str = ""
    dcert_file: str = ""
    dkey_file: str = ""
    ca_file: str = ""
    ca_path: str = ""
    log_level: int = 0
    cipher_list: str = ""
    min_protocol: str = "TLSv1.2"
    session_timeout: int = 0
    implicit: bool = False
    dane: bool | None = None
    mta_sts: STSUse | None = None
    policy_cache: str = ""
    report_file: str = ""
    table: PolicyTable = field(default_factory=lambda: PolicyTable(""))
    remarks: tuple[str, ...] = ()

    @property
    def enabled(self) -> bool:
        """Whether TLS is used at all."""
        return self.policy.level is not Level.NONE or bool(self.table.entries)

    def policy_for(self, destination: str) -> TLSPolicy:
        """The policy for mail to ``destination``, as written in job lines.

        Raises :class:`~zsmtp.errors.ConfigError` if the table's line for it is invalid: its mail waits.
        """
        entry = self.table.find(destination)
        if entry is None:
            return self.policy
        if entry.policy is None:
            raise ConfigError(f"{self.table.path}:{entry.line}: {entry.problem}")
        return replace(entry.policy, dane=self.policy.dane)


# ---------------------------------------------------------------- kinds of value


def _flag(value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise ConfigError(f"neither on nor off: {escape(value[:80])}")


def _text(value: str) -> str:
    if not value or not value.isprintable():
        raise ConfigError(f"not a value: {escape(value[:80])}" if value else "no value")
    return value


def _path(value: str) -> str:
    if not value or "\0" in value:
        raise ConfigError("no file name")
    return value


def _number(value: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 9 or not least <= int(value) <= most:
        raise ConfigError(f"not a number from {least} to {most}: {escape(value[:80])}")
    return int(value)


def _protocol(value: str) -> str:
    for name in PROTOCOLS:
        if value.lower() in (name.lower(), f"{name.lower()}.0"):
            return name
    raise ConfigError(f"not a protocol (one of {', '.join(PROTOCOLS)}): {escape(value[:80])}")


def read_sts_use(value: str) -> STSUse:
    """The use of MTA-STS by its word: on, off, testing; raises ConfigError for any other."""
    if value.lower() == "testing":
        return STSUse.TESTING
    return STSUse.ON if _flag(value) else STSUse.OFF


# ------------------------------------------------------------------ the keywords

# Keyword without hyphens: (attribute, parser of its value).
_KEYWORDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "tlscertfile": ("cert_file", _path),
    "tlskeyfile": ("key_file", _path),
    "tlsdcertfile": ("dcert_file", _path),
    "tlsdkeyfile": ("dkey_file", _path),
    "tlscafile": ("ca_file", _path),
    "tlscapath": ("ca_path", _path),
    "tlsloglevel": ("log_level", lambda value: _number(value, 0, 4)),
    "tlscipherlist": ("cipher_list", _text),
    "tlsusescache": ("use_sessions", _flag),
    "tlsscachetimeout": ("session_timeout", lambda value: _number(value, 1, LONGEST_SESSION)),
    "demandtlsmode": ("demand", _flag),
    "tlsminprotocol": ("min_protocol", _protocol),
    "tlslevel": ("level", read_level),
    "tlsmatch": ("match", read_names),
    "tlsfingerprint": ("fingerprints", read_fingerprints),
    "tlssni": ("server_name", read_host),
    "tlspolicyfile": ("policy_file", _path),
    "tlsmtasts": ("mta_sts", read_sts_use),
    "tlsmtastscache": ("policy_cache", _path),
    "tlsdane": ("dane", _flag),
    "tlsreportfile": ("report_file", _path),
    "tlsimplicit": ("implicit", _flag),
}
# An invalid value here may have been meant to require TLS.
_DEMANDS = frozenset({"demand", "level", "match", "fingerprints", "policy_file", "mta_sts", "dane", "implicit"})
_WITHOUT_EFFECT = {
    "tlsrandomsource": "tls-random-source",
    "tlsstrictrfc2487": "tls-strict-rfc2487",
    "notlsreadahead": "no-tls-readahead",
}
_FILES = ("cert_file", "key_file", "dcert_file", "dkey_file", "ca_file", "ca_path")
_SESSION_TIME = 3600  # seconds, if resumption is on and no time is given


@dataclass(slots=True)
class _Reading:
    """The values read so far; ``problems`` are invalid values, in the order of the file."""

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    demanding: bool = False
    table: PolicyTable = field(default_factory=lambda: PolicyTable(""))


def load(path: str) -> TLSConfig:
    """Read the file ``path`` and the table it names; check that the other files it names are readable.

    Raises OSError for a file that cannot be read, :class:`~zsmtp.errors.ConfigError` for an invalid value: for the file
    ``path`` itself always, since its demands are unknown then, for the rest only if TLS is required. If it is not, the
    configuration is "no TLS", and its remarks give the reason.
    """
    reading = _Reading(path)
    _read_lines(reading, read_config_file(path, FILE_LIMIT).data)
    try:
        _read_files(reading)
        config = _config(reading)
        if reading.problems:
            raise ConfigError(reading.problems[0])
    except (OSError, ConfigError) as error:
        if reading.demanding:
            raise
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        others = (problem for problem in reading.problems if problem != why)
        remarks = (*reading.remarks, *others, f"{why}; there is no TLS")
        return TLSConfig(path=path, policy=TLSPolicy(level=Level.NONE), remarks=remarks)
    return config


def _read_lines(reading: _Reading, data: bytes) -> None:
    seen: set[str] = set()
    idle: list[str] = []
    for number, line in significant_lines(data):
        written, *rest = line.split(None, 1)
        value = rest[0] if rest else ""
        keyword = written.lower().replace("-", "")
        where = f"{reading.path}:{number}"
        if keyword in _WITHOUT_EFFECT:
            idle.append(_WITHOUT_EFFECT[keyword])
            continue
        if keyword not in _KEYWORDS:
            reading.remarks.append(f"{where}: unknown keyword {escape(written[:80])}")
            continue
        if keyword in seen:
            reading.remarks.append(f"{where}: {escape(written)} is given again; this one counts")
        seen.add(keyword)
        name, read = _KEYWORDS[keyword]
        try:
            reading.values[name] = read(value)
        except ConfigError as error:
            reading.values.pop(name, None)
            reading.problems.append(f"{where}: {escape(written)}: {error}")
            reading.demanding |= name in _DEMANDS
    if idle and reading.values.get("log_level", 0) >= 1:
        reading.remarks.append(f"{reading.path}: without effect today: {', '.join(dict.fromkeys(idle))}")
    values = reading.values
    reading.demanding |= any(values.get(name) for name in ("demand", "dane", "implicit"))
    reading.demanding |= values.get("mta_sts") is STSUse.ON
    reading.demanding |= is_demanding(values.get("level", Level.MAY))


def _read_files(reading: _Reading) -> None:
    """Read the table, and check every other file now, rather than at the first handshake."""
    path = reading.values.pop("policy_file", "")
    if path:
        demanding, reading.demanding = reading.demanding, True  # until the demands of the table are known
        data = read_config_file(path, TABLE_LIMIT).data
        reading.table, remarks = parse_table(data, path)
        reading.remarks += remarks
        reading.demanding = demanding or reading.table.demanding
    for name in _FILES:
        path = reading.values.get(name, "")
        if not path:
            continue
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECTORY if name == "ca_path" else 0)
        os.close(os.open(path, flags))


def _config(reading: _Reading) -> TLSConfig:
    values = dict(reading.values)
    for cert, key in (("cert_file", "key_file"), ("dcert_file", "dkey_file")):
        if key in values and cert not in values:
            raise ConfigError(f"{reading.path}: a key without its certificate: {escape(values[key])}")
        if cert in values:
            values.setdefault(key, values[cert])
    if not values.pop("use_sessions", False):
        values.pop("session_timeout", None)
    else:
        values.setdefault("session_timeout", _SESSION_TIME)
    try:
        policy = _policy(values)
    except ConfigError as error:
        reading.demanding = True  # such a mistake suggests that more than opportunistic TLS is wanted
        raise ConfigError(f"{reading.path}: {error}") from None
    return TLSConfig(path=reading.path, policy=policy, table=reading.table, remarks=tuple(reading.remarks), **values)


def _policy(values: dict[str, Any]) -> TLSPolicy:
    """The policy for destinations without one of their own; removes its own from ``values``."""
    level = values.pop("level", Level.MAY)
    demand = values.pop("demand", False) or values.get("implicit", False)
    dane = bool(values.get("dane"))
    if level in (Level.DANE, Level.DANE_ONLY):
        if values.get("dane") is False:
            raise ConfigError(f"tls-level {level.value} and tls-dane off contradict each other")
        dane = True
    if demand and level in (Level.NONE, Level.MAY, Level.DANE):
        level = Level.ENCRYPT  # with dane, existing TLSA records still count
    policy = TLSPolicy(
        level=level,
        match=values.pop("match", ()),
        fingerprints=values.pop("fingerprints", ()),
        dane=dane,
        server_name=values.pop("server_name", ""),
    )
    check_policy(policy)
    return policy
