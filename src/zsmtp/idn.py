"""Internationalised domain names: IDNA 2008 (RFC 5891) with the mapping of UTS 46, non-transitional.

The same rule applies to lookups, to paths in SMTP commands and to addresses in header fields. A name is mapped first,
to allow the spellings of people: upper case, full-width letters and other full stops than the ASCII one have plain
forms. Labels that are not ASCII after that must be valid under IDNA 2008; symbols, which IDNA 2003 allowed, are not.
ASCII labels stay as they are, also with underscores and as A-labels::

    to_ascii("Bücher。example")  # "xn--bcher-kva.example", for lookups and for servers without SMTPUTF8
    mapped("Bücher。example")    # "bücher.example", for servers with SMTPUTF8 (RFC 6531)

Both return None for a name without such a form. They do not check whether the ASCII form is a valid host name.
"""

from __future__ import annotations

from zsmtp.patterns import pattern

# The mapping makes ASCII of some characters: full-width brackets must not become the end of a path.
_SAFE = pattern(r"[a-z0-9_-]+")


def to_ascii(name: str) -> str | None:
    """A host name in lower case and A-labels, without its final dot; None if it has no such form."""
    if name.isascii():
        return name.removesuffix(".").lower()
    labels = _labels(name)
    return None if labels is None else ".".join(ascii_form for _, ascii_form in labels).removesuffix(".")


def mapped(name: str) -> str | None:
    """A host name mapped by UTS 46, labels beyond ASCII as U-labels; an ASCII name unchanged. None if invalid."""
    if name.isascii():
        return name
    labels = _labels(name)
    return None if labels is None else ".".join(label for label, _ in labels)


def _labels(name: str) -> list[tuple[str, str]] | None:
    """The labels of a name beyond ASCII, mapped, each with its ASCII form."""
    import idna  # few names need its tables

    try:
        texts = idna.uts46_remap(name, False).split(".")
        labels = [(text, text if text.isascii() else idna.alabel(text).decode("ascii")) for text in texts]
    except (idna.IDNAError, UnicodeError):
        return None
    inner = labels[:-1] if not texts[-1] else labels
    return labels if inner and all(_fits(ascii_form) for _, ascii_form in inner) else None


def _fits(label: str) -> bool:
    """Whether a label is allowed in a name beyond ASCII (RFC 5891 4.2.3.1: no hyphen at either end)."""
    return _SAFE.fullmatch(label) is not None and not label.startswith("-") and not label.endswith("-")
