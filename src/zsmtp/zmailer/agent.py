"""The command ``smtp``, from its arguments to its exit status.

The scheduler starts many agents and waits for the first ``#hungry`` of each, so before that this module only reads the
options. The delivery engine is loaded while the scheduler looks for a job.

Everything written on standard error starts with ``#``: the scheduler reads it like standard output, and takes any other
line for a report.
"""

from __future__ import annotations

import os
import sys

from zsmtp import __version__
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.zmailer.options import AgentOptions, help_text, parse, usage

EX_OK = 0
EX_USAGE = 64
EX_SOFTWARE = 70
EX_IOERR = 74


def main(argv: list[str] | None = None) -> int:
    """Run the agent with these arguments (without the program's name); returns one of ``<sysexits.h>``."""
    _hold_streams()
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        warn(str(error))
        write_error(usage())
        return EX_USAGE
    if options.show_version:
        return _show(f"zsmtp smtp {__version__}\n")
    if options.show_help:
        return _show(help_text())
    try:
        return _serve(options)
    except KeyboardInterrupt:
        return EX_OK
    except Exception:
        _write_traceback()
        return EX_SOFTWARE


def _serve(options: AgentOptions) -> int:
    if options.connect_only:
        from zsmtp.zmailer.connect import try_connecting

        return try_connecting(options)
    _leave_on_signals()
    try:
        os.write(1, b"#hungry\n")
    except OSError:
        return EX_IOERR
    import gc

    gc.disable()  # while the engine is loaded: none of it is garbage
    from zsmtp.zmailer.loop import Loop

    return Loop(options, warn).run()


def _hold_streams() -> None:
    """Keep the number of a stream that was closed before the start from being reused for a file or a connection."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # gets the lowest free number; not writable


def _leave_on_signals() -> None:
    """Let signals end the process with success until the loop handles them: nothing is locked or reported before."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: os._exit(EX_OK))


def warn(text: str) -> None:
    """Write one or more lines about a problem to standard error."""
    for line in text.splitlines():
        write_error(f"smtp: {line}")


def write_error(line: str) -> None:
    """Write one comment line to standard error; if that is closed, discard it."""
    try:
        os.write(2, f"# {escape(line)}\n".encode())
    except OSError:
        return


def _show(text: str) -> int:
    try:
        os.write(1, text.encode())
    except OSError:
        return EX_IOERR
    return EX_OK


def _write_traceback() -> None:
    import traceback

    for line in traceback.format_exc().splitlines():
        write_error(f"smtp: internal error: {line}")


if __name__ == "__main__":
    sys.exit(main())
