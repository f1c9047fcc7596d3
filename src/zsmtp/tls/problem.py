"""The failures of TLS, under the names that reports use (RFC 8460 4.3).

One enum for all of ``zsmtp.tls``: each rule that rejects a session names one of these, the log adds details, and the
report to the domain's owner counts them.
"""

from __future__ import annotations

from enum import Enum


class TLSProblem(Enum):
    """The kind of failure; the value is the result type of RFC 8460."""

    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"  # not offered, or refused
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"  # the certificate has other names
    CERTIFICATE_EXPIRED = "certificate-expired"  # or not valid yet
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"  # no path to a trust anchor
    VALIDATION_FAILURE = "validation-failure"  # all other failures, a failed handshake among them
    TLSA_INVALID = "tlsa-invalid"  # no TLSA record matches, or none is usable
    DNSSEC_INVALID = "dnssec-invalid"  # a TLSA answer is bogus or missing
    DANE_REQUIRED = "dane-required"  # this side requires TLSA records and there are none
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"  # the certificate of the policy host
