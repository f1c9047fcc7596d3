"""Matches the names in a certificate with the expected ones (RFC 9525, formerly RFC 6125; IP addresses 6.4).

A *reference* is a name that this side expects, a *presented* name is in the certificate. References are a host name, an
IP address, or ``.example.org``, which means every name below that domain. The rules:

- Host names are compared with dNSName entries, label by label, ignoring ASCII case. Names that are no host names
  (empty labels, control characters, octets beyond ASCII) match nothing.
- A wildcard is the whole left-most label, stands for exactly one label, and needs two labels behind it: ``*.org``
  matches nothing (RFC 9525 6.3 and 7.1).
- IP addresses are compared with iPAddress entries only, without the zone of a link-local one.
- The subject's common name does not count (RFC 9525). The only exception is DANE-TA, whose servers may still have old
  certificates from their own authority: there a common name counts, if the certificate has no subjectAltName (RFC 7672
  3.2.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from zsmtp.dns.ip import canonical_ip, unmapped, without_zone
from zsmtp.tls.certificate import Certificate

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


def matching_name(references: Iterable[str], certificate: Certificate, *, common_name: bool = False) -> str | None:
    """The presented name that matches one of the references, or None. ``common_name`` allows the exception."""
    names = certificate.dns_names
    if common_name and not names and not certificate.ip_addresses:
        names = certificate.common_names
    for reference in references:
        address = canonical_ip(without_zone(reference))
        if address is None:
            found = next((name for name in names if name_matches(reference, name)), None)
        else:
            found = next((ip for ip in certificate.ip_addresses if unmapped(ip) == unmapped(address)), None)
        if found is not None:
            return found
    return None


def name_matches(reference: str, presented: str) -> bool:
    """Whether one presented dNSName, wildcard or not, covers one reference name (``.domain``: any name below it)."""
    below = reference.startswith(".")
    wanted = _labels(reference[1:] if below else reference)
    wildcard = presented.startswith("*.")
    found = _labels(presented[2:] if wildcard else presented)
    if wanted is None or found is None or (wildcard and len(found) < 2):
        return False
    if below:  # the wildcard's label comes in addition
        return len(found) + wildcard > len(wanted) and found[-len(wanted) :] == wanted
    return wanted[1:] == found if wildcard else wanted == found


def _labels(name: str) -> list[str] | None:
    """The labels of a host name in lower case, or None if it is not one."""
    if not 0 < len(name) <= 253:
        return None
    labels = name.lower().split(".") if name.isascii() else [""]
    return labels if all(_LABEL.fullmatch(label) for label in labels) else None
