"""Records what a Dovecot of Debian's answers: the two files ``dovecot-*.txt``. Run as ``record.py`` is, by itself.

The server is the one of ``make interop``, in its own root directory; its socket appears as /run/dovecot/lmtp in a mount
namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import record

MAILBOX = "user000@example.org"


def main() -> None:
    """Start Dovecot, deliver by command and by the agent."""
    record.enter()
    sys.path.insert(0, str(record.ROOT))
    from tests.interop.servers import running_farm

    for command in ("ip link set lo up", "mount -t tmpfs none /run", "mkdir /run/dovecot"):
        subprocess.run(command.split(), check=True)
    with tempfile.TemporaryDirectory(prefix="recording-") as name, running_farm() as farm:
        folder = Path(name)
        os.symlink(farm.server("dovecot").root / "run" / "lmtp", "/run/dovecot/lmtp")
        record.furnish(folder)
        control = folder / "postoffice" / "transport" / "1001"
        control.write_text(control.read_text().replace("bob@example.org", MAILBOX))
        sending = [
            f"zsmtp send letter.eml --to {MAILBOX} --relay /run/dovecot/lmtp --lmtp",
            f"zsmtp send letter.eml --to {MAILBOX} --to nobody@example.org --relay lmtp:///run/dovecot/lmtp",
        ]
        agent = [
            "cd $POSTOFFICE/transport",
            "printf '1001\\texample.org\\n' | smtp -M -F UNIX:/run/dovecot/lmtp -l ../smtp.log | tr '\\r' '\\n'",
            "cut -f2 ../smtp.log | sed -n '5,16p'",
        ]
        for scene, commands in (("dovecot-send", sending), ("dovecot-agent", agent)):
            (record.HERE / f"{scene}.txt").write_text(record.play(commands, folder))


if __name__ == "__main__":
    main()
