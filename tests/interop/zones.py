"""A small world of DNS of our own, signed, and the name servers for it: NSD serves, Unbound validates (RFC 4035).

The root and everything below it are made here, with keys nobody else knows, so answers are as true or as false as a
test wants them. Below ``test.`` lie

- ``signed.test``, where all is well but for what the name says; TLSA records of the hosts ``mx`` in :data:`HOSTS`;
- ``insecure.test``, unsigned; ``bogus.test``, whose signatures are damaged; ``expired.test``, whose signatures are old.

Zones of their own below ``signed.test`` hold the TLSA records of hosts of which only these are not as they should be::

    with name_servers(farm) as names:
        office.write_zenv(RESOLVER=names.validating)

``names.careless`` is a resolver that knows no trust anchor, so nothing it says is secure.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dns.dnssec
import dns.message
import dns.name
import dns.query
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.zone
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from dns.dnssectypes import Algorithm
from dns.rdtypes.dnskeybase import Flag
from tests.interop.confined import Confined
from tests.interop.pki import Authority
from tests.interop.servers import LISTENERS, Farm, await_free

AUTHORITATIVE, VALIDATING, CARELESS = 3691, 3690, 3692  # ports of 127.0.0.1
PORTS = {
    listener.port: listener.program
    for listener in LISTENERS
    if listener.port is not None and listener.program in ("postfix", "exim")
}
"""The ports that the TLSA records are for, and who is there."""

_DAY = 86400
_START_SECONDS = 60.0
_HEAD = "@ 60 IN SOA ns.test. hostmaster.test. 1 3600 600 864000 60\n@ 60 IN NS ns.test.\n"
_ZERO = "0" * 64
_MALFORMED = "TYPE65331"  # stands for a TLSA record that makes no sense

HOSTS: dict[str, tuple[str, ...]] = {
    "ee": ("3 1 1 {key}",),
    "ee-certificate": ("3 0 1 {leaf}",),
    "ee-whole": ("3 0 0 {leaf_der}",),
    "ee-sha512": ("3 1 2 {key512}",),
    "ta": ("2 0 1 {ca}",),
    "ta-key": ("2 1 1 {ca_key}",),
    "wrong": ("3 1 1 " + _ZERO,),
    "wrong-ta": ("2 1 1 " + _ZERO,),
    "roll": ("3 1 1 " + _ZERO, "3 1 1 {key}"),
    "roll-usage": ("2 1 1 " + _ZERO, "3 1 1 {key}"),
    "agile": ("3 1 1 " + _ZERO, "3 1 2 {key512}"),
    "not-agile": ("3 1 1 {key}", "3 1 2 " + _ZERO * 2),
    "pkix": ("1 1 1 {key}", "0 0 1 {ca}"),
    "unusable": ("9 9 9 {key}",),
    "malformed": (_MALFORMED + r" \# 4 03010100", "3 1 1 {key}"),
    "all-malformed": (_MALFORMED + r" \# 4 03010100",),
    "none": (),
    "bogus-tlsa": ("3 1 1 {key}",),
    "expired-tlsa": ("3 1 1 {key}",),
    "insecure-tlsa": ("3 1 1 " + _ZERO,),
}
"""TLSA records by the first label of the domain whose exchanger they are for: ``mx-LABEL.signed.test``."""
STS = (
    "enforce", "other-mx", "other-name", "testing", "none", "slow", "short-lived", "wrong-name", "unknown-authority",
    "expired", "redirect", "missing", "too-large", "not-a-policy", "reset",
)  # fmt: skip
"""Domains below ``insecure.test`` with an MTA-STS record, and below ``signed.test`` the first of them."""
POLICY_HOST = "127.0.0.2"
LAME = "_tcp.mx-lame-tlsa.signed.test."
OWN_ZONES = ("bogus-tlsa", "expired-tlsa", "insecure-tlsa")
"""Those of them whose records lie in a zone of their own, ``_tcp.mx-LABEL.signed.test``."""


def _records(authority: Authority, program: str, forms: Sequence[str]) -> list[str]:
    leaf, ca = authority.leaf(program), authority.certificate
    key, ca_key = _public_key(leaf), _public_key(ca)
    values = {
        "leaf": hashlib.sha256(leaf).hexdigest(),
        "leaf_der": leaf.hex(),
        "key": hashlib.sha256(key).hexdigest(),
        "key512": hashlib.sha512(key).hexdigest(),
        "ca": hashlib.sha256(ca).hexdigest(),
        "ca_key": hashlib.sha256(ca_key).hexdigest(),
    }
    return [form.format(**values) for form in forms]


def _public_key(certificate: bytes) -> bytes:
    key = x509.load_der_x509_certificate(certificate).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Zone:
    """One zone: its records as text, and how it is signed. ``ds`` are the records for the zone above, once signed."""

    name: str
    text: str
    signed: bool = True
    since: float = -1.0  # days from now
    until: float = 30.0
    damaged: tuple[str, ...] = ()  # types whose signatures are false
    ds: str = field(default="", init=False)

    def publish(self, folder: Path) -> None:
        """Write the zone to a file named after it."""
        zone = dns.zone.from_text(_HEAD + self.text, self.name, relativize=False)
        _put_malformed(zone)
        if self.signed:
            key = ec.generate_private_key(ec.SECP256R1())
            public = dns.dnssec.make_dnskey(key.public_key(), Algorithm.ECDSAP256SHA256, Flag.ZONE | Flag.SEP)
            self.ds = dns.dnssec.make_ds(self.name, public, "SHA256").to_text()
            now = time.time()
            dns.dnssec.sign_zone(
                zone,
                keys=[(key, public)],
                inception=int(now + self.since * _DAY),
                expiration=int(now + self.until * _DAY),
            )
            self._damage(zone)
        zone.to_file(str(folder / self.file), relativize=False)

    @property
    def file(self) -> str:
        return f"{self.name}zone"

    def _damage(self, zone: dns.zone.Zone) -> None:
        for node in zone.values():
            for rdataset in node.rdatasets:
                if rdataset.rdtype != dns.rdatatype.RRSIG or dns.rdatatype.to_text(rdataset.covers) not in self.damaged:
                    continue
                (old,) = rdataset
                rdataset.clear()
                rdataset.add(old.replace(signature=old.signature[:-1] + bytes([old.signature[-1] ^ 1])))


def _put_malformed(zone: dns.zone.Zone) -> None:
    """Put real TLSA records where :data:`_MALFORMED` stands for them, which no library would write."""
    for node in zone.values():
        kind = dns.rdatatype.from_text(_MALFORMED)
        stand_in = node.get_rdataset(dns.rdataclass.IN, kind)
        if stand_in is None:
            continue
        node.delete_rdataset(dns.rdataclass.IN, kind)
        tlsa = node.find_rdataset(dns.rdataclass.IN, dns.rdatatype.TLSA, create=True)
        for record in stand_in:
            tlsa.add(dns.rdata.GenericRdata(dns.rdataclass.IN, dns.rdatatype.TLSA, record.data), ttl=60)


def _tlsa(authority: Authority, host: str, forms: Sequence[str]) -> str:
    return "".join(
        f"_{port}._tcp.{host} 60 IN {record if record.startswith('TYPE') else 'TLSA ' + record}\n"
        for port, program in PORTS.items()
        for record in _records(authority, program, forms)
    )


def _below_signed(authority: Authority) -> tuple[str, list[Zone]]:
    """The records of ``signed.test`` and the zones below it that are not delegated by a DS record of their own yet."""
    lines, zones = [], []
    for label, forms in HOSTS.items():
        lines.append(f"{label} 60 IN MX 10 mx-{label}\nmx-{label} 60 IN A 127.0.0.1\n")
        if label not in OWN_ZONES:
            lines.append(_tlsa(authority, f"mx-{label}", forms))
            continue
        zone = Zone(f"_tcp.mx-{label}.signed.test.", _tlsa(authority, "@", forms).replace("._tcp.@", ""))
        zone.signed = label != "insecure-tlsa"
        if label == "bogus-tlsa":
            zone.damaged = ("TLSA", "NSEC")
        elif label == "expired-tlsa":
            zone.since, zone.until = -60, -30
        zones.append(zone)
        lines.append(f"_tcp.mx-{label} 60 IN NS ns.test.\n")
    right, wrong = "3 1 1 {key}", f"3 1 1 {_ZERO}"
    lines += [
        # aliases: of the exchanger, of its TLSA records, of the domain
        "alias 60 IN MX 10 mx-alias\nmx-alias 60 IN CNAME mx-ee\n",
        "tlsa-alias 60 IN MX 10 mx-tlsa-alias\nmx-tlsa-alias 60 IN A 127.0.0.1\n",
        *(f"_{port}._tcp.mx-tlsa-alias 60 IN CNAME _{port}._tcp.mx-ee\n" for port in PORTS),
        "domain-alias 60 IN CNAME ee\n",
        # names that no certificate speaks for, since a wildcard is one label (RFC 6125 6.4.3)
        f"deep 60 IN MX 10 mx.deep\nmx.deep 60 IN A 127.0.0.1\n{_tlsa(authority, 'mx.deep', [right])}",
        f"a.deep-ta 60 IN MX 10 mx.deep-ta\nmx.deep-ta 60 IN A 127.0.0.1\n"
        f"deep-ta 60 IN MX 10 mx.deep-ta\n{_tlsa(authority, 'mx.deep-ta', ['2 1 1 {ca_key}'])}",
        # more than one exchanger
        "second 60 IN MX 10 mx-wrong\nsecond 60 IN MX 20 mx-ee\n",
        "none-good 60 IN MX 10 mx-wrong\nnone-good 60 IN MX 20 mx-bogus-tlsa\n",
        # the server of this zone does not have it
        "lame-tlsa 60 IN MX 10 mx-lame-tlsa\nmx-lame-tlsa 60 IN A 127.0.0.1\n_tcp.mx-lame-tlsa 60 IN NS ns.test.\n",
        # a signed domain at an exchanger of an unsigned zone
        "at-insecure 60 IN MX 10 mx.insecure.test.\n",
        # what DANE says goes before what MTA-STS says
        _sts(STS[0], "mx-ee"),
        # without MX the destination is the exchanger
        f"no-mx 60 IN A 127.0.0.1\n{_tlsa(authority, 'no-mx', [wrong])}",
    ]
    return "".join(lines), zones


def _sts(label: str, exchanger: str) -> str:
    return (
        f'{label} 60 IN MX 10 {exchanger}\n_mta-sts.{label} 60 IN TXT "v=STSv1; id=1;"\n'
        f"mta-sts.{label} 60 IN A {POLICY_HOST}\n"
    )


def _plain(authority: Authority) -> str:
    """A zone whose TLSA records are wrong and whose exchanger has others in a zone that is signed."""
    return (
        f"@ 60 IN MX 10 mx\nmx 60 IN A 127.0.0.1\n{_tlsa(authority, 'mx', ['3 1 1 ' + _ZERO])}"
        "at-signed 60 IN MX 10 mx-wrong.signed.test.\nmx.deep 60 IN A 127.0.0.1\n"
        + "".join(_sts(label, "mx.deep" if label == "other-name" else "mx") for label in STS)
    )


def make_zones(authority: Authority, folder: Path) -> tuple[list[str], str]:
    """Make and sign all zones in ``folder``; their names, and the DS record of the root."""
    text, below = _below_signed(authority)
    plain = _plain(authority)
    bogus, expired = Zone("bogus.test.", plain, damaged=("MX", "A", "TLSA")), Zone("expired.test.", plain)
    expired.since, expired.until = -60, -30
    insecure = Zone("insecure.test.", plain, signed=False)
    for zone in (*below, bogus, expired, insecure):
        zone.publish(folder)
    signed = Zone("signed.test.", text + "".join(f"{zone.name} 60 IN DS {zone.ds}\n" for zone in below if zone.ds))
    signed.publish(folder)
    children = (signed, bogus, expired, insecure)
    delegations = "".join(
        f"{zone.name} 60 IN NS ns.test.\n" + (f"{zone.name} 60 IN DS {zone.ds}\n" if zone.ds else "")
        for zone in children
    )
    test = Zone("test.", "ns 60 IN A 127.0.0.1\n" + delegations)
    test.publish(folder)
    root = Zone(".", f"test. 60 IN NS ns.test.\nns.test. 60 IN A 127.0.0.1\ntest. 60 IN DS {test.ds}\n")
    root.publish(folder)
    return [zone.name for zone in (root, test, *children, *below)] + [LAME], f". IN DS {root.ds}\n"


@dataclass(frozen=True, slots=True)
class NameServers:
    """Where they answer, as a configuration wants it: ``address:port``."""

    validating: str
    careless: str


@contextlib.contextmanager
def name_servers(farm: Farm) -> Iterator[NameServers]:
    """The zones, for the certificates that ``farm`` has made so far, and the servers for them."""
    root = farm.directory / "root"
    folder = root / "dns"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names, anchor = make_zones(farm.authority, folder)
    (folder / "anchor").write_text(anchor)
    (folder / "nsd.conf").write_text(_nsd(names))
    (folder / "validating.conf").write_text(
        _unbound(VALIDATING, names, 'trust-anchor-file: "/dns/anchor"', "validator iterator")
    )
    (folder / "careless.conf").write_text(_unbound(CARELESS, names, "", "iterator"))
    for port in (AUTHORITATIVE, VALIDATING, CARELESS):
        await_free(port)
    commands = {
        "nsd": ("/usr/sbin/nsd", "-d", "-c", "/dns/nsd.conf"),
        "validating": ("/usr/sbin/unbound", "-d", "-c", "/dns/validating.conf"),
        "careless": ("/usr/sbin/unbound", "-d", "-c", "/dns/careless.conf"),
    }
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            log = farm.directory / "log" / f"{name}.log"
            log.write_bytes(b"")
            server = Confined(name, root, command, log)
            stack.callback(server.stop)
        for port in (VALIDATING, CARELESS):
            _await_answer(port, farm.directory / "log")
        yield NameServers(f"127.0.0.1:{VALIDATING}", f"127.0.0.1:{CARELESS}")


def _await_answer(port: int, logs: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    query = dns.message.make_query("ee.signed.test.", "MX")
    while True:
        with contextlib.suppress(OSError, dns.exception.DNSException):
            if dns.query.udp(query, "127.0.0.1", timeout=1, port=port).answer:
                return
        if time.monotonic() > deadline:
            told = "\n".join((logs / f"{name}.log").read_text() for name in ("nsd", "validating", "careless"))
            raise RuntimeError(f"no answer at port {port}:\n{told}")
        time.sleep(0.05)


def _nsd(names: Sequence[str]) -> str:
    zones = "".join(f'zone:\n  name: "{name}"\n  zonefile: "/dns/{name}zone"\n' for name in names)
    return f"""server:
  ip-address: 127.0.0.1@{AUTHORITATIVE}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "/dns"
  database: ""
  pidfile: ""
  xfrdfile: "/dns/xfrd.state"
  zonelistfile: "/dns/zone.list"
  xfrdir: "/dns"
  cookie-secret-file: ""
remote-control:
  control-enable: no
{zones}"""


def _unbound(port: int, names: Sequence[str], anchor: str, modules: str) -> str:
    stubs = "".join(f'stub-zone:\n  name: "{name}"\n  stub-addr: 127.0.0.1@{AUTHORITATIVE}\n' for name in names)
    return f"""server:
  interface: 127.0.0.1@{port}
  num-threads: 1
  do-ip6: no
  username: ""
  chroot: ""
  directory: "/dns"
  pidfile: ""
  logfile: ""
  use-syslog: no
  do-not-query-localhost: no
  module-config: "{modules}"
  {anchor}
  ede: yes
  val-log-level: 2
  qname-minimisation: no
  local-zone: "test." nodefault
remote-control:
  control-enable: no
{stubs}"""
