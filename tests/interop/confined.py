"""A program in a chroot, in a mount and a process namespace of its own, of which nothing is ever left behind.

The first process of the namespace waits on a pipe from us: when the pipe closes, because the program is stopped or
because this process died in whatever way, it ends, and the kernel ends every other process of the namespace and drops
its mounts. So there are no pid files, and nothing to clean up after a run was killed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_STOP_SECONDS = 60.0

# Process 1 of the namespaces. Arguments: the root directory, then the command to run in it. It ends when the command
# does or when its standard input is closed. The devices are those a daemon may expect; there is no /dev/log that would
# lead to this machine's syslog.
_FIRST_PROCESS = """
set -eu
root=$1; shift
mount -t proc proc "$root/proc"
for device in null zero full random urandom; do
    : >> "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
exec 3<&0
chroot "$root" "$@" </dev/null 3<&- &
server=$!
{ read -r _ || :; kill -KILL "$server"; } <&3 3<&- &
exec </dev/null 3<&-
wait "$server"
"""


class Confined:
    """The running ``command``, its root directory being ``root``; what it prints is added to the file ``output``.

    ``launcher`` are words in front of everything (``taskset -c 1``).
    """

    def __init__(
        self, name: str, root: Path, command: Sequence[str], output: Path, *, launcher: Sequence[str] = ()
    ) -> None:
        with output.open("ab") as out:
            self._process = subprocess.Popen(
                [
                    *launcher,
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                    *("sh", "-c", _FIRST_PROCESS, name, str(root), *command),
                ],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether it is gone already."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """End every process of the namespace; returns when they are gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
