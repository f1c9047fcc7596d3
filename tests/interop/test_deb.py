"""The Debian package (``make deb``): built of this tree, installed in a new root directory, used there, and purged."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(900)]  # packages are fetched

TREE = Path(__file__).parents[2]
TOOLS = ("mmdebstrap", "unshare", "chroot", "dpkg-deb", "/usr/bin/python3")
MIRROR = Path("/usr/share/mmdebstrap/hooks/file-mirror-automount")
COMMANDS = ("smtp", "zsmtp", "zsmtp-sendmail")

# Arguments: a user, the root directory, then the command to run in it.
_ENTER = 'user=$1; shift; mount -t proc proc "$1/proc" && exec chroot --userspec="$user" "$@"'


class Root:
    """A root directory in which the package is installed; ``package`` is its path in there."""

    def __init__(self, path: Path, package: str) -> None:
        self.path = path
        self.package = package

    def run(self, script: str, *, user: str = "root") -> str:
        """What a shell script prints in there, to standard output and error. Fails where the script does."""
        done = subprocess.run(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh"),
                *(user, str(self.path), "bash", "-euc", script),
            ],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    if os.geteuid() != 0 or platform.freedesktop_os_release().get("ID") != "debian":
        pytest.skip("a root directory of Debian's is made by root on Debian")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("deb")
    subprocess.run(["make", "--no-print-directory", "-C", TREE, "deb", f"DEB_DIR={folder}"], check=True)
    (package,) = folder.glob("zsmtp_*.deb")
    made = Root(folder / "root", "/zsmtp.deb")
    # apt resolves what the package depends on; nothing else is there but apt, and man.
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=apt", f"--hook-dir={MIRROR}", f"--include=man-db,{package}"),
            *(platform.freedesktop_os_release()["VERSION_CODENAME"], str(made.path)),
        ],
        check=True,
    )
    shutil.copy(package, f"{made.path}{made.package}")
    return made


def test_a_message_goes_from_the_shell_and_from_python_to_a_receiver(root: Root) -> None:
    shown = root.run(
        r"""
        cd /tmp
        zsmtp receive --listen 127.0.0.1:0 --count 2 > received &
        until grep -q '^receiving' received; do sleep 0.1; done
        export RELAY="smtp://127.0.0.1:$(sed -n 's/.* port \([0-9]*\);.*/\1/p' received)"
        printf 'From: ann@example.org\nTo: bob@example.net\nSubject: Shell\n\nAt one?\n' > letter.eml
        zsmtp send --relay "$RELAY" letter.eml
        /opt/zsmtp/bin/python3 -c '
import os, zsmtp
letter = b"From: ann@example.org\nTo: eve@example.net\nSubject: Python\n\nAt two?\n"
print(zsmtp.deliver(letter, relay=os.environ["RELAY"]))'
        wait
        cat received
        """,
        user="nobody",
    )
    for text in ("delivered  bob@example.net", "eve@example.net: delivered", "Subject: Shell", "Subject: Python"):
        assert text in shown, shown


def test_the_commands_need_nothing_of_their_caller_s_python(root: Root) -> None:
    shown = root.run(
        """
        mkdir -p /tmp/path && echo 'raise SystemExit("not mine")' > /tmp/path/zsmtp.py
        cd /tmp/path && export PYTHONPATH=/tmp/path PYTHONHOME=/nowhere
        zsmtp --version; smtp --version; zsmtp-sendmail --help; zsmtp explain --color never '[127.0.0.1]'
        """,
        user="nobody",
    )
    assert "not mine" not in shown
    assert shown.startswith("zsmtp 0.")
    assert "Usage: zsmtp-sendmail" in shown


def test_every_manual_page_can_be_read_and_found_by_its_name(root: Root) -> None:
    for page in sorted((TREE / "man").iterdir()):
        name, section = page.stem, page.suffix[1:]
        shown = root.run(f"man -P cat {section} {name}; whatis -s {section} {name}")
        assert "DESCRIPTION" in shown, name
        assert f"{name} ({section})" in shown.splitlines()[-1], name


def test_completion_is_where_shells_look_for_it(root: Root) -> None:
    for name in COMMANDS:
        script = f"cd /tmp; . /usr/share/bash-completion/completions/{name}; complete -p {name}"
        assert root.run(script) == f"complete -F _zsmtp {name}\n"
    assert root.run("cat /usr/share/fish/vendor_completions.d/smtp.fish").startswith("# ")
    assert root.run("head -1 /usr/share/zsh/vendor-completions/_zsmtp") == "#compdef zsmtp zsmtp-sendmail smtp\n"


def test_the_service_can_be_started_as_its_unit_does(root: Root) -> None:
    assert root.run("systemd-analyze verify --man=yes zsmtp.service zsmtp-submission.socket") == ""
    assert "DynamicUser=no" in root.run("cat /usr/lib/systemd/system/zsmtp.service.d/account.conf")
    shown = root.run("/usr/bin/zsmtp serve --config /etc/zsmtp/serve.toml --check", user="zsmtp")
    assert "queue: /var/lib/zsmtp/queue.db" in shown


def test_it_is_complete_and_belongs_to_root(root: Root) -> None:
    assert root.run("dpkg --verify zsmtp") == ""
    assert root.run("find /opt/zsmtp /etc/zsmtp ! -user root -o -perm /022 ! -type l") == ""
    assert "__pycache__" in root.run("ls /opt/zsmtp/lib/python3*/site-packages/zsmtp")
    assert root.run("apt-get check -qq") == ""


def test_a_purge_leaves_nothing_but_the_queue(root: Root) -> None:
    installing = f"dpkg -i --force-unsafe-io {root.package}"
    listed = root.run("dpkg -L zsmtp").splitlines()
    ours = [path for path in listed if "zsmtp" in path or Path(path).name.startswith("smtp")]
    assert {"/usr/bin/smtp", "/opt/zsmtp/bin/python3"} <= {*ours}
    assert _purged(root, ours) == ""
    assert root.run("getent passwd zsmtp || echo none") == "none\n"

    root.run(installing)
    root.run(installing)  # over itself, as an upgrade is
    root.run("install -d -m 750 -o zsmtp -g zsmtp /var/lib/zsmtp")  # StateDirectory=, for want of systemd
    making = """/opt/zsmtp/bin/python3 -c 'import zsmtp; zsmtp.Queue.open("/var/lib/zsmtp/queue.db").close()'"""
    root.run(making, user="zsmtp")
    root.run("printf 'To: bob@example.net\n\nAt one?\n' | zsmtp-sendmail -f ann@example.org -t", user="zsmtp")
    root.run("mkdir -p /etc/systemd/system/multi-user.target.wants && touch /etc/zsmtp/relay-password")
    root.run("ln -s /usr/lib/systemd/system/zsmtp.service /etc/systemd/system/multi-user.target.wants/")
    assert _purged(root, ours) == "/var/lib/zsmtp\n"
    assert root.run("getent passwd zsmtp").startswith("zsmtp:")

    root.run(installing)
    assert "bob@example.net" in root.run("zsmtp queue list --color never", user="zsmtp")
    root.run("rm -r /var/lib/zsmtp")  # as the other tests found it


def _purged(root: Root, ours: list[str]) -> str:
    """What is left anywhere when the package is purged; its own files are gone."""
    root.run("dpkg --purge zsmtp")
    assert [path for path in ours if os.path.lexists(f"{root.path}{path}")] == []
    others = f"! -path {root.package} ! -path '/tmp/*' ! -path '/var/cache/man/*'"  # pages that root read
    return root.run(f"find / -xdev -name '*zsmtp*' {others}")
