"""The ways TLS can fall short, under the names that reports use (RFC 8460 4.3).

One enum for all of ``zsmtp.tls``: who finds that a session is not as required says which of these it is, the log adds
words of its own, and the report to the domain's owner counts them.
"""

from __future__ import annotations

from enum import Enum


class TLSProblem(Enum):
    """What was wrong; the value is the result type of RFC 8460."""

    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"  # not offered, or refused
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"  # the certificate speaks for other names
    CERTIFICATE_EXPIRED = "certificate-expired"  # or not valid yet
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"  # no way to a trust anchor
    VALIDATION_FAILURE = "validation-failure"  # everything that has no name of its own, a failed handshake too
    TLSA_INVALID = "tlsa-invalid"  # no TLSA record matches, or none can be used
    DNSSEC_INVALID = "dnssec-invalid"  # an answer about TLSA is bogus or cannot be had
    DANE_REQUIRED = "dane-required"  # this side insists on TLSA records and there are none
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"  # the certificate of the server that has the policy
