"""Records what the pages show: commands that are really run, with what they really print.

``python docs/captures/record.py [NAME...]`` (Linux, as root; it needs iproute2) makes two network namespaces with a
wire between them. In one are the hosts of ``world.py``, in the other this machine, out.example.net, with a name server
(``names.py``). Each scene is a list of shell commands; they and their output become the file ``NAME.txt`` beside this
one. Times differ from run to run, all else should not. Nothing leaves the namespaces.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BIN = Path(sys.executable).parent
INSIDE = "ZSMTP_RECORDING"

LETTER = """\
From: Ann <ann@example.net>
To: Bob <bob@example.org>
Subject: Lunch
Date: Thu, 26 Nov 2026 12:00:00 +0000
Message-ID: <lunch.1@example.net>

At one, by the river?
"""

# RFC 8463 appendix A, with one of its two signatures.
RECEIVED = """\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
"""

TLS_CONF = """\
tls-level        may
tls-dane         on
tls-mta-sts      on
tls-report-file  {folder}/postoffice/tlsrpt
"""

# Each scene: what is run. A command that begins with ":" is run and not shown; one with "@" is run tomorrow (faketime).
SCENES: dict[str, list[str]] = {
    "explain": ["zsmtp explain example.org"],
    "explain-one": ["zsmtp explain example.com"],
    "explain-sts": ["zsmtp explain example.com quiet.example"],
    "explain-connect": ["zsmtp explain --connect -4 example.org"],
    "explain-rcpt": ["zsmtp explain --rcpt busy@example.com", "echo $?"],
    "plan": [
        ":mkdir -p kept && cd kept && cp ../letter.eml .",
        "zsmtp explain --json example.org > plan.json",
        "zsmtp send --plan plan.json letter.eml",
    ],
    "explain-agent": ["zsmtp explain --agent='smtp -S postoffice/smtp-tls.conf' example.com"],
    "send": ["cat letter.eml", "zsmtp send letter.eml", "echo $?"],
    "send-many": [
        "zsmtp send letter.eml --to bob@example.org --to nobody@example.org --to busy@example.com --to "
        "eve@quiet.example",
        "echo $?",
    ],
    "dry-run": ["zsmtp send --dry-run letter.eml"],
    "trace": [":zsmtp send --trace lunch.json letter.eml", "zsmtp trace show lunch.json"],
    "trace-html": [":zsmtp trace show --html lunch.html lunch.json"],
    "replay": ["zsmtp explain --replay lunch.json"],
    "relay": [
        "zsmtp send letter.eml --relay relay.example.net:587 --user ann --password-file secret",
        "zsmtp send letter.eml --relay relay.example.net:587 --user ann --password-file wrong-secret",
    ],
    "lmtp": ["zsmtp send letter.eml --to bob@example.net --relay lmtp://mailbox.example.net --tls none"],
    "agent": [
        "cd $POSTOFFICE/transport",
        "printf '1001\\texample.org\\n' | smtp -l ../smtp.log | tr '\\r' '\\n'",
        "cut -c1-88 ../smtp.log",
        "grep '^r' 1001",
    ],
    "agent-tls": [
        ":cp fresh $POSTOFFICE/transport/1001",
        "cd $POSTOFFICE/transport",
        "cat ../smtp-tls.conf",
        ":printf '1001\\texample.com\\n' | smtp -S ../smtp-tls.conf -l ../tls.log",
        "cut -f2 ../tls.log | grep '^TLS' | fold -sw 85",
    ],
    "tlsrpt": [
        "@zsmtp tlsrpt --domain example.net $POSTOFFICE/tlsrpt",
        "tr -d '\\r' < example.net*.eml | sed -n '1,/^$/p'",
        "tr -d '\\r' < example.net*.eml | sed -n '/^H4s/,/^--=/p' | grep -v ^-- | base64 -d | zcat | "
        "python3 -m json.tool",
    ],
    "connect": ["smtp -D example.org"],
    "dkim-key": ["zsmtp dkim key example.net 2026a | fold -w 86", "ls 2026a*"],
    "dkim-verify": [
        "zsmtp dkim verify received.eml",
        "echo $?",
        "sed 's/Is dinner ready/Is lunch ready/' received.eml | zsmtp dkim verify -",
        "sed 's/lost the game/won the game/' received.eml | zsmtp dkim verify -",
    ],
}


def enter() -> None:
    """Go on in namespaces of our own."""
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "yes"
        os.execvp("unshare", ["unshare", "-n", "-m", "-u", sys.executable, *sys.argv])


def issue(folder: Path) -> str:
    """Certificates for all hosts by one authority; the TLSA record of mx1.example.org."""
    import trustme
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from world import HOSTS

    authority = trustme.CA(organization_name="Example Trust", organization_unit_name="Certificates")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    records = ""
    for name in [*(host.name for host in HOSTS), "mta-sts.example.com"]:
        issued = authority.issue_cert(name, organization_name="Example", organization_unit_name="Mail")
        issued.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
        certificate = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if name.endswith(".example.org"):
            records += f"_25._tcp.{name} TLSA 3 1 1 {hashlib.sha256(key).hexdigest()}\n"
    return records


def connect(folder: Path) -> subprocess.Popen[str]:
    """Start the other hosts, wire them to this one, and wait until they listen."""
    command = ["unshare", "-n", sys.executable, str(HERE / "world.py"), str(folder)]
    world = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    time.sleep(1.0)  # until it has a namespace of its own
    for line in (
        f"ip link add out type veth peer name wire netns {world.pid}",
        "ip address add 203.0.113.10/24 dev out",
        "ip address add 2001:db8:1::10/64 dev out nodad",
        "ip link set lo up",
        "ip link set out up",
        "ip route add default via 203.0.113.1",
        "ip -6 route add default via 2001:db8:1::1",
        "hostname out.example.net",
    ):
        subprocess.run(line.split(), check=True)
    assert world.stdin is not None
    assert world.stdout is not None
    world.stdin.write("go\n")
    world.stdin.flush()
    assert world.stdout.readline() == "ready\n"
    time.sleep(1.0)  # until IPv6 has found its way
    return world


def furnish(folder: Path) -> None:
    """The files that the commands use."""
    resolver, hosts = folder / "resolv.conf", folder / "hosts"
    resolver.write_text("nameserver 127.0.0.1\n")
    hosts.write_text("127.0.0.1 localhost\n")
    for path in (resolver, hosts):
        subprocess.run(["mount", "--bind", str(path), f"/etc/{path.name}"], check=True)
    (folder / "letter.eml").write_text(LETTER)
    (folder / "received.eml").write_text(RECEIVED)
    for name, secret in (("secret", "open sesame\n"), ("wrong-secret", "open, barley\n")):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(secret)
    office = folder / "postoffice"
    for name in ("transport", "queue"):
        (office / name).mkdir(parents=True)
    (office / "zmailer.conf").write_text(f"POSTOFFICE={office}\nSYSLOGFLG=none\n")
    (office / "smtp-tls.conf").write_text(TLS_CONF.format(folder=folder))
    header, _, body = LETTER.partition("\n\n")
    head = "from <ann@example.net>\nto <bob@example.org>\nenv-end\n" + header + "\n\n"
    (office / "queue" / "1001").write_text(head + body)

    def control(domain: str) -> str:
        return (
            f"@ 0x00000007\ni 1001\no {len(head)}\nl <lunch.1@example.net>\ne ann@example.net\n"
            f"s local - ann@example.net 99\nr           smtp {domain} bob@{domain} 99\nm\n{header}\n\n"
        )

    (office / "transport" / "1001").write_text(control("example.org"))
    (folder / "fresh").write_text(control("example.com"))


def play(commands: list[str], folder: Path) -> str:
    """Run commands in one shell after the other, each where the last one left off; what a terminal would show."""
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "COLUMNS": "88",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(ROOT / "src"),
        "SSL_CERT_FILE": str(folder / "ca.pem"),
        "POSTOFFICE": str(folder / "postoffice"),
        "ZCONFIG": str(folder / "postoffice" / "zmailer.conf"),
        "TZ": "UTC",
        "HOME": str(folder),
    }
    shown, place, status = [], folder, 0
    for command in commands:
        quiet = command.startswith(":")
        line = command.lstrip(":@")
        prefix = "faketime -f +1d " if command.startswith("@") else ""
        done = subprocess.run(
            [
                "bash",
                "-c",
                f"(exit {status}); {prefix}{line}\nzsmtp_status=$?; pwd >{folder}/.place; exit $zsmtp_status",
            ],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        place, status = Path((folder / ".place").read_text().strip()), done.returncode
        if not quiet:
            shown.append(f"$ {line}\n{done.stdout}")
    text = "".join(shown).replace(f"{folder}/postoffice", "/var/spool/postoffice").replace(f"{folder}/", "")
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def main() -> None:
    """Record the scenes that are named, or all."""
    enter()
    sys.path.insert(0, str(HERE))
    from names import NameServer

    folder = Path(tempfile.mkdtemp(prefix="recording-"))
    world = None
    try:
        records = issue(folder)
        furnish(folder)
        world = connect(folder)
        NameServer(records)
        wanted = sys.argv[1:] or list(SCENES)
        for name, commands in SCENES.items():
            text = play(commands, folder)
            if text and name in wanted:
                (HERE / f"{name}.txt").write_text(text)
        page = folder / "lunch.html"
        if page.exists():
            shutil.copy(page, HERE / "lunch.html")
    finally:
        if world is not None and world.stdin is not None:
            world.stdin.close()
            world.wait(10)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
