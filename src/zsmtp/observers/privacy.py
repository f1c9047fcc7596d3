"""Mail addresses in traces: clear, or each replaced by a keyed hash that leaves its domain readable.

With hashes, ``joe@example.org`` becomes ``~3f9a0c5e1b@example.org`` everywhere: in commands, replies, reasons and
verdicts. The key is random for each trace and never stored, so equal addresses stay equal within a trace, but two
traces cannot be linked, nor a name recovered (RFC 6973 5.1, 5.2).

Servers write free text, so more than the addresses of the envelope is replaced: anything that looks like an address;
the local parts of the envelope and their words, anywhere; and the last word of a text that was cut off, which may be
half an address. The time is linear in the length of the text, for any input.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b

from zsmtp.escape import escape
from zsmtp.observers.document import Addresses

_RUN = re.compile(r"""(?:"[^"]{1,64}"@)?[^\s<>()\[\],;:"'\\]+""")
_AT = re.compile(r"@|\+40|%40", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_CUT_OFF = "..."
_SHORTEST_WORD = 3  # of a word in a local part; the whole local part counts with any length
_MAX_NAMES = 20_000


class Veil:
    """Hides addresses in the texts of one trace. ``key``: 16 or more random secret octets; None hides nothing."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        self._names: dict[str, str] = {}

    @property
    def addresses(self) -> Addresses:
        """How addresses are shown."""
        return Addresses.CLEAR if self._key is None else Addresses.HASHED

    def know(self, envelope: Iterable[bytes]) -> None:
        """Register the addresses of the envelope: all texts are searched for their local parts."""
        if self._key is None:
            return
        domains: set[str] = set()
        for address in envelope:
            if len(self._names) >= _MAX_NAMES:
                return
            local, _, domain = escape(address).casefold().rpartition("@")
            shown = self._hash(f"{_bare(local)}@{domain}") if local else self._hash(domain)
            name = _bare(local) or domain
            domains.update(_WORD.findall(domain) if local else ())
            for word in _WORD.findall(name):
                if len(word) >= _SHORTEST_WORD and word not in domains:
                    self._names.setdefault(word, self._hash(word))
            self._names[name] = shown

    def address(self, address: bytes) -> str:
        """One address of the envelope; the null reverse-path stays empty."""
        text = escape(address)
        if self._key is None or not text:
            return text
        local, at, domain = text.rpartition("@")
        return f"{self._hash(f'{_bare(local)}@{domain}')}@{domain}" if at else self._hash(text)

    def text(self, text: str) -> str:
        """A text from outside, with its addresses replaced if they are hidden."""
        if self._key is None or not text:
            return text
        return _RUN.sub(self._run, _without_half_word(text))

    def facts(self, text: str) -> str:
        """A text without reference to the envelope (records, certificates, capabilities): only addresses are hidden."""
        if self._key is None or not text:
            return text
        return _RUN.sub(self._address_in, _without_half_word(text))

    def _run(self, found: re.Match[str]) -> str:
        run = found[0]
        known = self._names.get(run.casefold())
        if known is not None:
            return known
        shown = self._address_in(found)
        return shown if shown != run else _WORD.sub(lambda word: self._names.get(word[0].casefold(), word[0]), run)

    def _address_in(self, found: re.Match[str]) -> str:
        parts = _AT.split(found[0], maxsplit=1)
        if len(parts) < 2 or not all(parts):
            return found[0]
        domain = parts[1].rstrip(".!?")
        return f"{self._hash(f'{_bare(parts[0])}@{domain}')}@{parts[1]}"

    def _hash(self, text: str) -> str:
        assert self._key is not None
        digest = blake2b(text.casefold().encode("utf-8", "surrogatepass"), key=self._key[:64], digest_size=5)
        return "~" + digest.hexdigest()


def _without_half_word(text: str) -> str:
    """A text that was cut off without its last word, which may be half an address."""
    for end in (_CUT_OFF, _CUT_OFF + ")"):
        if text.endswith(end):
            whole = text[: len(text) - len(end)]
            return whole[: whole.rfind(" ") + 1] + end
    return text


def _bare(local: str) -> str:
    """A local part without its quotes."""
    return local.strip('"')
