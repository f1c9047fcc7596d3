"""Parses the command line of ``smtp``: single-letter options in clusters, like C's getopt(3).

:func:`parse` turns the arguments into :class:`AgentOptions` and raises :class:`~zsmtp.errors.ConfigError` for an
unknown option, an invalid value, or two options that contradict each other. The agent then prints the reason and
:func:`usage` on standard error and exits 64 (``EX_USAGE`` of ``<sysexits.h>``).

One table has every option once; the usage line, :func:`help_text` and the parser all read it. Options may stand
before or after the host; ``--`` ends them.

Every agent parses its options before its first ``#hungry``, so this module imports nothing slow: the standard library's
getopt loads gettext and re, dataclasses load inspect, and either takes longer than all the work done here.
"""

from __future__ import annotations

from zsmtp.errors import ConfigError

TYPE_CHECKING = False  # instead of typing's, whose import would cost milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("1", "", "one message per connection"),
    ("6", "", "try IPv6 addresses first"),
    ("7", "", "treat the server as 7-bit only (undoes -8); -77: also use HELO and no extension at all"),
    ("8", "", "send 8-bit content whatever the server offers (undoes -7; after -77: without ESMTP)"),
    ("A", "file", "secrets for SMTP AUTH"),
    ("c", "channel", "take recipients of this channel (default: smtp)"),
    ("D", "", "only try to connect, report on standard error, exit"),
    ("d", "", "write debugging remarks to standard output, each line starting with #"),
    ("E", "", "use EHLO only if the greeting mentions ESMTP"),
    ("e", "", "also take recipients whose own mail exchangers include the connected host"),
    ("F", "dest", "connect to this host, literal or UNIX:/path for all mail"),
    ("H", "", "leave 8-bit message headers as they are"),
    ("h", "name", "name to greet with (default: that of the local address)"),
    ("L", "ident", "local identity: iface:eth0, [192.0.2.1], any, any6 or a host name"),
    ("l", "file", "append the SMTP dialogue to this file"),
    ("M", "", "speak LMTP; needs -p other than 25 or -F UNIX:/path"),
    ("O", "keywords", "ignore-ezmlm: no VERP; no-ta-diagnostics: the old words; trace=DIR, hash-addresses: traces"),
    ("P", "", "do not use PIPELINING"),
    ("p", "port", "remote port, a number or a service name (default: 25)"),
    ("r", "", "connect from a port below 1024 (needs privilege)"),
    ("S", "file", "TLS configuration; without it STARTTLS is not used"),
    ("s", "", "show progress in the process title"),
    ("T", "timeouts", "conn=3m,tcpw=5m,cmd=5m,data=2m,dot=20m; a bare value is cmd; units d h m s"),
    ("V", "", "print the version and exit (also --version)"),
    ("v", "", "log more"),
    ("W", "", "require a WKS record that lists SMTP"),
    ("w", "octets", "size of the socket's send buffer"),
    ("X", "", "with -x: allow connections to this host itself"),
    ("x", "", "no MX lookup: connect to the host's own addresses"),
    ("Z", "text", "ignored"),
)
"""Each option: its letter, the name of its value ("" for a flag), and what it does."""

_TAKES_VALUE = {letter: value != "" for letter, value, _ in OPTIONS}

_FLAGS: dict[str, tuple[str, bool]] = {
    "1": ("one_message", True),
    "6": ("prefer_ipv6", True),
    "D": ("connect_only", True),
    "d": ("debug", True),
    "E": ("esmtp_if_announced", True),
    "e": ("mx_match", True),
    "H": ("convert_headers", False),
    "M": ("lmtp", True),
    "P": ("pipelining", False),
    "r": ("reserved_port", True),
    "s": ("show_progress", True),
    "V": ("show_version", True),
    "W": ("check_wks", True),
    "X": ("allow_self", True),
    "x": ("mx_lookup", False),
}

_TEXTS = {
    "A": "auth_file",
    "c": "channel",
    "F": "force_destination",
    "h": "helo_name",
    "L": "local_identity",
    "l": "log_file",
    "S": "tls_conf",
}

_KEYWORDS = {
    "ignore-ezmlm": ("ignore_ezmlm", True),
    "ta-diagnostics": ("ta_diagnostics", True),
    "no-ta-diagnostics": ("ta_diagnostics", False),
    "hash-addresses": ("hash_addresses", True),
}

# Submode of -T: attribute, least value in seconds.
_TIMEOUTS = {
    "conn": ("connect_timeout", 10),
    "tcpw": ("write_timeout", 10),
    "cmd": ("command_timeout", 5),
    "data": ("data_timeout", 10),
    "dot": ("dot_timeout", 10),
}
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
# poll(2) counts milliseconds in an int; a week is far below its maximum and longer than useful.
_LONGEST_TIMEOUT = 7 * 86400
_LARGEST_BUFFER = 1 << 30
_LONGEST_NAME = 255  # RFC 5321 4.5.3.1.2


class AgentOptions:
    """The options of the command line. Times are in seconds, sizes in octets; an absent text is None."""

    host: str | None = None  # the destination of job lines without a host
    channel: str = "smtp"  # -c
    helo_name: str | None = None  # -h
    port: int | None = None  # -p; None: the default, 25
    lmtp: bool = False  # -M (RFC 2033)
    mx_lookup: bool = True  # -x turns it off
    allow_self: bool = False  # -X
    check_wks: bool = False  # -W (RFC 974)
    mx_match: bool = False  # -e
    esmtp_if_announced: bool = False  # -E
    force_destination: str | None = None  # -F
    local_identity: str | None = None  # -L
    log_file: str | None = None  # -l
    reserved_port: bool = False  # -r
    show_progress: bool = False  # -s
    pipelining: bool = True  # -P turns it off (RFC 2920)
    tls_conf: str | None = None  # -S
    auth_file: str | None = None  # -A
    prefer_ipv6: bool = False  # -6
    seven_bit: int = 0  # 1 for -7, 2 for -77
    eight_bit: bool = False  # -8; of -7 and -8 the last one counts
    convert_headers: bool = True  # -H turns it off (RFC 2047)
    debug: bool = False  # -d
    verbose: int = 0  # how often -v was given
    connect_only: bool = False  # -D
    one_message: bool = False  # -1
    ignore_ezmlm: bool = False  # -O ignore-ezmlm
    ta_diagnostics: bool | None = None  # -O ta-diagnostics, no-ta-diagnostics; None: set by ZENV
    trace: str | None = None  # -O trace=
    hash_addresses: bool = False  # -O hash-addresses
    send_buffer: int | None = None  # -w; None: the system's default
    connect_timeout: int = 180  # -T conn=
    write_timeout: int = 300  # -T tcpw=
    command_timeout: int = 300  # -T cmd= or a bare value
    data_timeout: int = 120  # -T data=
    dot_timeout: int = 1200  # -T dot=
    show_version: bool = False  # -V, --version
    show_help: bool = False  # --help


def parse(argv: list[str]) -> AgentOptions:
    """The options in ``argv`` (the arguments after the program's name).

    ``-V``, ``--version`` and ``--help`` end the parsing: later arguments are not checked. Raises
    :class:`~zsmtp.errors.ConfigError` with a printable reason.
    """
    options = AgentOptions()
    hosts: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--":
            hosts.extend(arguments)
        elif argument.startswith("--"):
            _long_option(options, argument)
        elif argument.startswith("-") and argument != "-":
            _cluster(options, argument[1:], arguments)
        else:
            hosts.append(argument)
        if options.show_version or options.show_help:
            return options
    if len(hosts) > 1:
        raise ConfigError(f"more than one host: {hosts[0]!r} and {hosts[1]!r}")
    if hosts:
        options.host = _text(hosts[0], "host")
    _check_combinations(options)
    return options


def _long_option(options: AgentOptions, argument: str) -> None:
    if argument == "--version":
        options.show_version = True
    elif argument == "--help":
        options.show_help = True
    else:
        raise ConfigError(f"unknown option {argument!r}")


def _cluster(options: AgentOptions, letters: str, arguments: Iterator[str]) -> None:
    """``-8H`` is ``-8 -H``; the first letter with a value takes the rest, or the next argument."""
    for position, letter in enumerate(letters, 1):
        takes_value = _TAKES_VALUE.get(letter)
        if takes_value is None:
            raise ConfigError(f"unknown option {'-' + letter!r}")
        if takes_value:
            value = letters[position:] or next(arguments, None)
            if value is None:
                raise ConfigError(f"option -{letter} needs a value")
            _set_value(options, letter, value)
            return
        if letter == "7":
            options.seven_bit = min(options.seven_bit + 1, 2)
            if options.eight_bit:
                options.eight_bit = False
        elif letter == "8":
            options.eight_bit = True
            if options.seven_bit == 1:
                options.seven_bit = 0
        elif letter == "v":
            options.verbose += 1
        else:
            attribute, state = _FLAGS[letter]
            setattr(options, attribute, state)


def _set_value(options: AgentOptions, letter: str, value: str) -> None:
    if letter in _TEXTS:
        text = _greeting_name(value) if letter == "h" else _text(value, f"value of -{letter}")
        if letter == "c" and " " in text:
            raise ConfigError(f"bad channel {value!r}: it holds a blank")
        setattr(options, _TEXTS[letter], text)
    elif letter == "p":
        options.port = _port(value)
    elif letter == "w":
        options.send_buffer = _number(value, f"send buffer {value!r}", _LARGEST_BUFFER)
    elif letter == "T":
        _set_timeouts(options, value)
    elif letter == "O":
        _set_keywords(options, value)


def _text(value: str, what: str) -> str:
    """``value`` if it is not empty and has no control characters (which would appear in logs and reports)."""
    if not value:
        raise ConfigError(f"empty {what}")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in value):
        raise ConfigError(f"bad {what}: control character in {value!r}")
    return value


def _greeting_name(value: str) -> str:
    """A name that can follow HELO (RFC 5321 4.1.1.1): ASCII without blanks."""
    _text(value, "value of -h")
    if not value.isascii() or " " in value:
        raise ConfigError(f"bad greeting name {value!r}: not a host name (write IDN labels as xn--...)")
    if len(value) > _LONGEST_NAME:
        raise ConfigError(f"bad greeting name: over {_LONGEST_NAME} octets")
    return value


def _number(value: str, what: str, largest: int) -> int:
    """A decimal number from 1 to ``largest``."""
    if not (value.isascii() and value.isdigit()) or len(value) > 10 or not 1 <= int(value) <= largest:
        raise ConfigError(f"bad {what}: not a number from 1 to {largest}")
    return int(value)


def _port(value: str) -> int:
    if value.isascii() and value.isdigit():
        return _number(value, f"port {value!r}", 65535)
    import socket  # imported only for a service name, to save start-up time

    try:
        return socket.getservbyname(value, "tcp")
    except (OSError, ValueError):
        raise ConfigError(f"bad port {value!r}: no such service") from None


def _set_timeouts(options: AgentOptions, value: str) -> None:
    for part in value.split(","):
        name, equals, text = part.lower().partition("=")
        if not equals:
            name, text = "cmd", name
        if name not in _TIMEOUTS:
            raise ConfigError(f"bad timeout {part!r}: the kinds are {', '.join(_TIMEOUTS)}")
        attribute, least = _TIMEOUTS[name]
        seconds = _interval(text)
        if seconds is None:
            raise ConfigError(f"bad timeout {part!r}: write an interval like 90, 2m or 1h30m")
        if seconds < least:
            raise ConfigError(f"bad timeout {part!r}: below {least} seconds")
        if seconds > _LONGEST_TIMEOUT:
            raise ConfigError(f"bad timeout {part!r}: above {_LONGEST_TIMEOUT // 86400} days")
        setattr(options, attribute, seconds)


def _interval(text: str) -> int | None:
    """The seconds of ``1h30m``, ``2m``, ``90`` (a last number without unit counts seconds); None if it is malformed."""
    total, digits = 0, ""
    if not text or len(text) > 40:
        return None
    for character in text:
        if "0" <= character <= "9":
            digits += character
        elif character in _UNITS and digits:
            total += int(digits) * _UNITS[character]
            digits = ""
        else:
            return None
    return total + int(digits or "0")


def _set_keywords(options: AgentOptions, value: str) -> None:
    for keyword in value.split(","):
        name, equals, directory = keyword.strip().partition("=")
        if name.lower() == "trace" and equals:
            options.trace = _text(directory, "directory of -O trace=")
            continue
        found = _KEYWORDS.get(keyword.strip().lower())
        if found is None:
            raise ConfigError(f"unknown keyword {keyword!r} after -O; known: {', '.join(_KEYWORDS)}, trace=DIR")
        setattr(options, *found)


def _check_combinations(options: AgentOptions) -> None:
    if options.lmtp:
        if options.seven_bit == 2:
            raise ConfigError("-M and -77 contradict each other: LMTP has no HELO")
        if options.port in (None, 25) and not _is_socket(options.force_destination):
            raise ConfigError("-M needs -p with a port other than 25, or -F UNIX:/path")
    if options.connect_only and options.host is None and options.force_destination is None:
        raise ConfigError("-D needs a host")


def _is_socket(destination: str | None) -> bool:
    return destination is not None and destination.strip(' "').lower().startswith("unix:")


def usage() -> str:
    """The usage line, without line end."""
    flags = "".join(letter for letter, value, _ in OPTIONS if not value)
    values = " ".join(f"[-{letter} {value}]" for letter, value, _ in OPTIONS if value)
    return f"Usage: smtp [-{flags}] {values} [host]"


def help_text() -> str:
    """Usage and a paragraph for each option, in lines of at most 79 characters, each line ended."""
    import re  # only needed for this text, so not imported at the start
    from textwrap import fill

    whole = re.sub(r"(?<=\[-.) ", "\xa0", usage())  # an option and its value stay on one line
    lines = [fill(whole, 79, subsequent_indent=" " * 12, break_on_hyphens=False).replace("\xa0", " "), ""]
    for option, meaning in (
        *((f"-{letter} {value}".rstrip(), meaning) for letter, value, meaning in OPTIONS),
        ("--help", "this text"),
    ):
        lines.append(fill(meaning, 79, initial_indent=f"  {option:<12} ", subsequent_indent=" " * 15))
    return "\n".join(lines) + "\n"
