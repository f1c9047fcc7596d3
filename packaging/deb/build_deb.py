"""Build a Debian package of this tree: ``make deb``, or ``python3 packaging/deb/build_deb.py FOLDER``.

zsmtp and the Python packages that it needs lie in a virtual environment of their own, ``/opt/zsmtp``, for the Python of
the machine that builds; the versions are those of ``requirements/dev.lock``. The commands are linked to ``/usr/bin``,
and manual pages, completion and units are where Debian has them. No privilege is needed, and nothing outside FOLDER is
changed. The same commit gives the same package, octet for octet, as long as pip finds the same packages.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from email.utils import formatdate
from importlib.metadata import Distribution
from pathlib import Path
from textwrap import dedent

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
PREFIX = Path("opt/zsmtp")
EXTRAS = "metrics,postgres,ui"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = PREFIX / "lib" / PYTHON / "site-packages"
UNITS = Path("usr/lib/systemd/system")
CONFIGURATION = Path("etc/zsmtp/serve.toml")

COMMAND = """\
#!/{python} -I
import sys

from {module} import {function}

sys.exit({function}())
"""
# Isolated (-I): it ignores variables and packages of the calling user.


def main() -> None:
    """Build the package below the folder that the command line names, and print its path."""
    if len(sys.argv) != 2:
        sys.exit(f"Usage: {sys.argv[0]} FOLDER")
    for tool in ("dpkg", "dpkg-deb"):
        if shutil.which(tool) is None:
            sys.exit(f"make deb: {tool} is needed: this is no Debian")
    os.umask(0o022)
    output = Path(sys.argv[1]).resolve()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zsmtp-deb-", dir=output) as folder:
        print(_build(Path(folder), output))


def _build(folder: Path, output: Path) -> Path:
    root, moment = folder / "root", _moment()
    version = _version(moment)
    _install(folder / "tools", root / PREFIX)
    _make_commands(root)
    _forget_the_build(root)
    _copy_files(root, version, moment)
    _make_control(root, version)
    _set_modes(root)
    path = output / f"zsmtp_{version}_{_architecture()}.deb"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(moment)}
    words = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", str(root), str(path)]
    subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
    return path


def _asked(*words: str) -> str:
    """What a command says; "" if it fails or is not there."""
    try:
        return subprocess.run(words, cwd=TREE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _moment() -> int:
    """When the tree was made, seconds since 1970: all files of the package have this time at most."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _asked("git", "log", "-1", "--format=%ct") or time.time())


def _version(moment: int) -> str:
    """The version of the tree; of a commit that is no release, its time and name too, before or after the release."""
    text = (TREE / "src/zsmtp/__init__.py").read_text()
    found = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    assert found is not None
    release, commit = found[1], _asked("git", "rev-parse", "--short=9", "HEAD")
    if not commit or _asked("git", "tag", "--points-at", "HEAD", f"v{release}"):
        return release
    order = "+" if _asked("git", "tag", "--list", f"v{release}") else "~"
    return f"{release}{order}{time.strftime('%Y%m%d%H%M%S', time.gmtime(moment))}.{commit}"


def _architecture() -> str:
    return _asked("dpkg", "--print-architecture")


# ----------------------------------------------------------- the virtual environment


def _install(tools: Path, prefix: Path) -> None:
    """Install zsmtp and what it needs; pip has an environment of its own, which is not packaged."""
    done = subprocess.run([sys.executable, "-m", "venv", tools], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit("make deb: the package python3-venv is needed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    pip = [str(tools / "bin/pip"), "--quiet", "--disable-pip-version-check", "--python", str(prefix / "bin/python3")]
    constraint = ("--constraint", str(TREE / "requirements/dev.lock"))
    subprocess.run([*pip, "install", "--no-compile", *constraint, f"{TREE}[{EXTRAS}]"], check=True)


def _packages(root: Path) -> dict[Path, Distribution]:
    """The Python packages in the virtual environment, by the folders of what is known of them."""
    return {folder: Distribution.at(folder) for folder in sorted((root / PACKAGES).glob("*.dist-info"))}


def _make_commands(root: Path) -> None:
    """In place of what pip wrote: commands that name the Python at its place in the installed package."""
    for path in (root / PREFIX / "bin").iterdir():
        if not path.name.startswith("python"):
            path.unlink()
    (ours,) = (one for one in _packages(root).values() if one.metadata["Name"] == "zsmtp")
    for entry in ours.entry_points.select(group="console_scripts"):
        path = root / PREFIX / "bin" / entry.name
        path.write_text(COMMAND.format(python=PREFIX / "bin/python3", module=entry.module, function=entry.attr))
        link = root / "usr/bin" / entry.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("/") / PREFIX / "bin" / entry.name)


def _forget_the_build(root: Path) -> None:
    """Remove what names the place of the build, or lets pip change files that belong to dpkg."""
    for folder in _packages(root):
        for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            (folder / name).unlink(missing_ok=True)
    settings = root / PREFIX / "pyvenv.cfg"
    lines = [line for line in settings.read_text().splitlines() if not line.startswith("command ")]
    settings.write_text("".join(f"{line}\n" for line in lines))
    shutil.rmtree(root / PREFIX / "include", ignore_errors=True)
    place = os.fsencode(root)
    for path in _files(root):
        if path.name != "__pycache__" and place in path.read_bytes():
            sys.exit(f"make deb: /{path.relative_to(root)} names the place of the build")


def _files(root: Path) -> Iterator[Path]:
    """All regular files, in the order of their names."""
    return iter(sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()))


# ------------------------------------------------------------------- everything else


def _copy_files(root: Path, version: str, moment: int) -> None:
    """Put everything that is not in the virtual environment to its place."""
    pages = root / PREFIX / "share/man"
    for page in pages.glob("man?/*"):
        _write(root / "usr/share/man" / page.parent.name / f"{page.name}.gz", _compressed(page.read_bytes()))
    shutil.rmtree(root / PREFIX / "share")
    for source, place in (
        ("contrib/systemd/zsmtp.service", UNITS / "zsmtp.service"),
        ("contrib/systemd/zsmtp-submission.socket", UNITS / "zsmtp-submission.socket"),
        ("packaging/deb/account.conf", UNITS / "zsmtp.service.d/account.conf"),
        ("packaging/deb/zsmtp.sysusers", Path("usr/lib/sysusers.d/zsmtp.conf")),
        ("contrib/systemd/serve.toml", CONFIGURATION),
        ("README.md", Path("usr/share/doc/zsmtp/README.md")),
        ("packaging/deb/lintian-overrides", Path("usr/share/lintian/overrides/zsmtp")),
    ):
        _write(root / place, (TREE / source).read_bytes())
    documents = root / "usr/share/doc/zsmtp"
    _write(documents / "CHANGELOG.md.gz", _compressed((TREE / "CHANGELOG.md").read_bytes()))
    _write(documents / "changelog.gz", _compressed(_changelog(version, moment).encode()))
    _write(documents / "copyright", _copyright(root, moment).encode())
    _complete(root)


def _complete(root: Path) -> None:
    """Write the completion scripts: for each command one name, since shells look for the name of the command."""
    commands = sorted(path.name for path in (root / "usr/bin").iterdir())
    for shell, place, name in (
        ("bash", "usr/share/bash-completion/completions", "{}"),
        ("fish", "usr/share/fish/vendor_completions.d", "{}.fish"),
        ("zsh", "usr/share/zsh/vendor-completions", "_{}"),
    ):
        words = [str(root / PREFIX / "bin/python3"), "-IB", "-m", "zsmtp.cli.main", "completion", shell]
        script = root / place / name.format("zsmtp")
        _write(script, subprocess.run(words, check=True, capture_output=True).stdout)
        for command in commands:
            if command != "zsmtp" and shell != "zsh":  # which reads the names in the first line
                (script.parent / name.format(command)).symlink_to(script.name)


def _write(path: Path, octets: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(octets)


def _compressed(octets: bytes) -> bytes:
    return gzip.compress(octets, 9, mtime=0)


def _maintainer() -> str:
    """Who builds, in the variables that Debian's tools have for this, else who made the commit."""
    name, address = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    if name and address:
        return f"{name} <{address}>"
    return _asked("git", "log", "-1", "--format=%cn <%ce>") or "root <root@localhost>"


def _changelog(version: str, moment: int) -> str:
    """What tools for packages read; the changes are in CHANGELOG.md.gz beside it."""
    return dedent(f"""\
        zsmtp ({version}) stable; urgency=medium

          * Built from its source. CHANGELOG.md.gz has the changes.

         -- {_maintainer()}  {formatdate(moment)}
        """)


def _copyright(root: Path, moment: int) -> str:
    lines = [
        f"zsmtp: Copyright {time.gmtime(moment).tm_year} its authors. Its licence is the Apache License 2.0,",
        "/usr/share/common-licenses/Apache-2.0.",
        "",
        f"These packages are beside it in /{PACKAGES}, as",
        "their authors released them, each with its own licence:",
        "",
    ]
    for folder, one in _packages(root).items():
        if one.metadata["Name"] != "zsmtp":
            named = [one.metadata[field] for field in ("License-Expression", "License") if field in one.metadata]
            licence = named[0].splitlines()[0] if named else "see its files"
            lines.append(f"{one.metadata['Name']} {one.version}: {licence}")
            texts = (path for path in _files(folder) if re.match("(?i)licen[cs]e|copying|notice", path.name))
            lines += [f"  {path.relative_to(root / PACKAGES)}" for path in texts]
    return "\n".join(lines) + "\n"


def _make_control(root: Path, version: str) -> None:
    """Write what dpkg reads."""
    control = root / "DEBIAN"
    files = list(_files(root))
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)
    size = sum(-(-path.stat().st_size // 1024) for path in files)
    _write(control / "md5sums", "".join(sums).encode())
    _write(control / "conffiles", f"/{CONFIGURATION}\n".encode())
    text = (HERE / "control.in").read_text()
    minor = sys.version_info.minor
    fields = {
        "version": version,
        "architecture": _architecture(),
        "maintainer": _maintainer(),
        "size": size,
        "python": f"python3 (>= 3.{minor}~), python3 (<< 3.{minor + 1}~)",
        "libc": f"libc6 (>= {os.confstr('CS_GNU_LIBC_VERSION').split()[1]})",  # type: ignore[union-attr]
    }
    _write(control / "control", text.format(**fields).encode())
    for script in ("postinst", "prerm", "postrm"):
        _write(control / script, (HERE / script).read_bytes())


def _set_modes(root: Path) -> None:
    """Give every file the mode it is to have, whatever the build left."""
    for path in root.rglob("*"):
        if path.is_symlink():
            continue
        script = path.parent == root / "DEBIAN" and path.name in ("postinst", "prerm", "postrm")
        path.chmod(0o755 if path.is_dir() or script or path.parent == root / PREFIX / "bin" else 0o644)


if __name__ == "__main__":
    main()
