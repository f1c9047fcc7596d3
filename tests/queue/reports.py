"""Reports as other systems make them, in the shapes that they have; the words are our own."""

from __future__ import annotations


def multipart(kind: str, *parts: tuple[str, str], boundary: str = "=_b/1.2:x") -> bytes:
    """A multipart/report of parts: their header lines, and their content."""
    lines = [
        "From: MAILER-DAEMON@mx.example.net",
        "To: bounce@example.org",
        "Auto-Submitted: auto-replied",
        "Subject: Undelivered Mail",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={kind};\r\n\tboundary="{boundary}"',
        "",
        "This is a MIME message.",
        "",
    ]
    for header, content in parts:
        lines += [f"--{boundary}", header, "", content.replace("\n", "\r\n")]
    return "\r\n".join([*lines, f"--{boundary}--", ""]).encode()


TEXT = ("Content-Type: text/plain", "I could not deliver it.")
STATUS = "Content-Type: message/delivery-status"
ORIGINAL = ("Content-Type: text/rfc822-headers", "Return-Path: <ann@example.org>\nSubject: November\n")


def postfix(address: str = "bob@example.net") -> bytes:
    """A queue id of its own in the first group; Original-Recipient beside the final one."""
    status = (
        "Reporting-MTA: dns; mx.example.net\nX-Postfix-Queue-ID: 4Xyz12\nX-Postfix-Sender: rfc822; bounce@example.org\n"
        "Arrival-Date: Fri, 28 Nov 2025 12:00:00 +0000 (UTC)\n\n"
        f"Final-Recipient: rfc822; final-{address}\nOriginal-Recipient: rfc822;{address}\nAction: failed\n"
        "Status: 5.1.1\nRemote-MTA: dns; store.example.net\n"
        f"Diagnostic-Code: smtp; 550 5.1.1 <{address}>: no such\n    mailbox here\n"
    )
    return multipart("delivery-status", TEXT, ("Content-Description: Delivery report\r\n" + STATUS, status), ORIGINAL)


def exim(address: str = "bob@example.net") -> bytes:
    """A status that says nothing, and the closer one in the diagnostic."""
    status = (
        "Reporting-MTA: dns; mx.example.net\n\nAction: failed\n"
        f"Final-Recipient: rfc822;{address}\nStatus: 5.0.0\nRemote-MTA: dns; store.example.net\n"
        "Diagnostic-Code: smtp; 550-5.1.1 no such\n 550 5.1.1 mailbox here\n"
    )
    return multipart("delivery-status", TEXT, (STATUS, status), ORIGINAL, boundary="1764331200-eximdsn-12345")


def sendmail(address: str = "bob@example.net") -> bytes:
    """A comment behind the type, blank lines at both ends, an address in angle brackets, capitals in the action."""
    status = (
        "\nReporting-MTA: dns; mx.example.net\nReceived-From-MTA: DNS; out.example.org\n\n"
        f"Final-Recipient: RFC822; <{address}>\nAction: Failed\nStatus: 5.1.1 (bad mailbox)\n"
        "Remote-MTA: DNS; store.example.net\nDiagnostic-Code: SMTP; 550 5.1.1 no such mailbox here\n"
        "Last-Attempt-Date: Fri, 28 Nov 2025 12:00:01 GMT\n\n\n"
    )
    return multipart("delivery-status", TEXT, (STATUS, status), ORIGINAL, boundary="x123.456/mx.example.net")


def exchange(address: str = "bob@example.net") -> bytes:
    """HTML in an inner multipart, a status part in base64 or plain, a long diagnostic without a remote server."""
    inner = 'Content-Type: multipart/alternative; boundary="_inner_"'
    text = "--_inner_\nContent-Type: text/plain\n\nno\n--_inner_\nContent-Type: text/html\n\n<p>no\n--_inner_--\n"
    status = (
        f"Reporting-MTA: dns;AB1PR00.example.com\n\nFinal-recipient: RFC822;{address}\nAction: failed\nStatus: 5.1.1\n"
        "Diagnostic-code: smtp;550 5.1.1 RESOLVER.ADR.RecipNotFound; no such mailbox here\n"
        "X-Display-Name: Bob\n"
    )
    return multipart(
        "delivery-status", (inner, text), (STATUS, status), ("Content-Type: message/rfc822", "Subject: x\n\nhi\n")
    )


def delayed(address: str = "bob@example.net") -> bytes:
    """A report of a delay."""
    status = f"Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {address}\nAction: delayed\nStatus: 4.4.1\n"
    return multipart("delivery-status", TEXT, (STATUS, status))


def full(address: str = "bob@example.net") -> bytes:
    """A failure that is not the address's."""
    status = f"Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {address}\nAction: failed\nStatus: 5.2.2\n"
    return multipart("delivery-status", TEXT, (STATUS, status))


def complaint(sender: str, kind: str = "abuse", address: str = "") -> bytes:
    """A report of a feedback loop."""
    fields = f"Feedback-Type: {kind}\nUser-Agent: Loop/1\nVersion: 1\nOriginal-Mail-From: <{sender}>\n"
    fields += f"Original-Rcpt-To: <{address}>\n" if address else ""
    original = ("Content-Type: message/rfc822", "From: news@example.org\nSubject: November\n\nDear reader\n")
    return multipart("feedback-report", TEXT, ("Content-Type: message/feedback-report", fields), original)
