"""``zsmtp serve``: the whole system: accepts mail by SMTP or LMTP, queues it, and delivers it.

Without a configuration it accepts mail from this machine on port 2525 of the loopback interface and on a UNIX socket
beside the queue, and delivers to mail exchangers. ``--check`` reads the configuration and all files that it names.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.failure import CommandFailed, reading, warnings_printed
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import is_terminal
from zsmtp.errors import ConfigError, QueueBusy, QueueError
from zsmtp.escape import escape
from zsmtp.proto.server_passwords import password_line, scram_verifier
from zsmtp.queue.location import DEFAULT, VARIABLE, locate
from zsmtp.server.serviceconfig import MAX_WORKERS, ServiceConfig, read_service, service_config, worker_count

ITERATIONS = 10_000
_EPILOG = """\
signals: TERM and INT stop in order, a second one at once; HUP reads the
configuration again.

exit status: 0 stopped on request; 64 wrong usage; 66 or 77 a file cannot be
read; 71 an address cannot be listened on; 75 the queue cannot be used now, or
another process delivers it; 78 the configuration cannot be used.
zsmtp-serve(1) describes everything."""


def run(arguments: list[str]) -> int:
    """Run the command."""
    options = make_parser().parse_args(arguments)
    if options.password_line is not None:
        return _password_line(options.password_line)
    reread = _reader(options)
    config = reread()
    if options.check:
        return _check(config, options)
    return _serve(config, reread, options.node)


def make_parser() -> Parser:
    """The options of the command."""
    parser = command_parser("serve", "Take mail, keep it in the queue, and deliver it.", epilog=_EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", metavar="FILE", help="the configuration, TOML (without one: defaults)")
    parser.add_argument(
        "--queue",
        metavar="URL",
        help=f"the queue, a file or postgresql://host/database, instead of that of the configuration or ${VARIABLE} "
        f"({DEFAULT})",
    )
    parser.add_argument("--node", metavar="NAME", default="", help="the name of this process (default: the host)")
    parser.add_argument(
        "--workers",
        metavar="COUNT",
        type=_workers,
        help="the number of additional processes that deliver, instead of the configured one (0: this one delivers)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="read the configuration and its files, and end")
    what.add_argument(
        "--password-line",
        metavar="USER",
        help="read a password, write the line for a passwords_file, and end",
    )
    return parser


def _workers(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else -1
    try:
        return worker_count(number)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{escape(text[:80])} is not 0 to {MAX_WORKERS}") from error


def _reader(options: argparse.Namespace) -> Callable[[], ServiceConfig]:
    """The function that reads the configuration, now and on reload."""
    path, queue, workers = options.config, options.queue or "", options.workers

    def read() -> ServiceConfig:
        if path is None:
            config = service_config({}, queue=queue or os.environ.get(VARIABLE, ""))
        else:
            with reading(path):
                config = read_service(path, queue=queue, usual=os.environ.get(VARIABLE, ""))
        return config if workers is None else replace(config, workers=workers)

    return read


def _check(config: ServiceConfig, options: argparse.Namespace) -> int:
    """Read all files that the configuration names."""
    from zsmtp.cli.configuration import try_files
    from zsmtp.client.destinations import try_logins
    from zsmtp.queue.composer import Composer
    from zsmtp.queue.templates import load
    from zsmtp.server.service import read_entrances

    Composer(config.notices, load(Path(config.templates) if config.templates else None))
    read_entrances(config)
    with warnings_printed("zsmtp serve"):
        try_logins(config.delivery)
    delivery = config.delivery
    for tls in {delivery.direct.tls, *(one.tls for one in delivery.relays)}:
        try_files(tls)
    sys.stdout.write(f"{escape(options.config or 'the configuration')} can be used\n")
    for name, one in config.listen.items():
        sys.stdout.write(f"  {name}: {one.protocol.value} on {', '.join(one.addresses) or 'sockets of systemd'}\n")
    sys.stdout.write(f"  queue: {escape(locate(config.path).name)}\n")
    if config.workers:
        sys.stdout.write(f"  workers: {config.workers}\n")
    return Exit.OK


def _serve(config: ServiceConfig, reread: Callable[[], ServiceConfig], node: str) -> int:
    from zsmtp.server.service import Service, StartFailed, configure_log
    from zsmtp.server.servicelog import ServiceLog
    from zsmtp.server.systemd import Notifier, handed_sockets

    sockets = handed_sockets(os.environ)
    notifier = Notifier.from_environment(os.environ)
    journal = "JOURNAL_STREAM" in os.environ and not is_terminal(sys.stderr)

    def read_again() -> ServiceConfig:
        try:
            return reread()
        except CommandFailed as error:  # a missing file ends a command, but not the service
            raise ConfigError(str(error)) from error

    async def serve() -> None:
        service = Service(
            config,
            reread=read_again,
            service_log=service_log,
            notifier=notifier,
            sockets=sockets,
            journal=journal,
            node=node,
        )
        await service.run()

    with ServiceLog() as service_log:
        configure_log(service_log, config, journal=journal)
        try:
            asyncio.run(serve())
        except StartFailed as error:
            raise CommandFailed(Exit.OS, escape(str(error))) from error
        except QueueBusy as error:
            text = f"{error}; one process at a time delivers a queue: stop that one, or choose another queue"
            raise CommandFailed(Exit.TEMPORARY, escape(text)) from error
        except ConfigError:
            raise
        except QueueError as error:
            raise CommandFailed(Exit.TEMPORARY, escape(str(error))) from error
    return Exit.OK


def _password_line(user: str) -> int:
    """Make the verifier of a password, which it reads from a terminal or standard input."""
    if is_terminal(sys.stdin):
        password = getpass.getpass(f"password of {escape(user)}: ")
        if getpass.getpass("again: ") != password:
            raise CommandFailed(Exit.DATA, "the passwords differ")
    else:
        password = sys.stdin.readline(4096).removesuffix("\n")
    if not password:
        raise CommandFailed(Exit.DATA, "no password was given")
    verifier = scram_verifier(password.encode(), salt=os.urandom(16), iterations=ITERATIONS)
    sys.stdout.write(password_line(user.encode(), verifier).decode() + "\n")
    return Exit.OK
