"""Mail addresses in traces: clear, or each replaced by a keyed hash that leaves its domain readable.

With hashes, ``joe@example.org`` becomes ``~3f9a0c5e1b@example.org`` wherever it stands: in commands, in what servers
say of it, in reasons and verdicts. The key is drawn for one trace and never written down, so equal addresses stay equal
within a trace, and nothing connects two traces or leads back to a name (RFC 6973 5.1, 5.2).

Servers choose their words, so more is replaced than the addresses of the envelope: whatever looks like an address; the
local parts of the envelope and the words they are made of, wherever they stand; and the last word of a text that was
cut off, which may be half an address. All of it takes time in proportion to the text, whatever is in there.
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
_SHORTEST_WORD = 3  # of the words a local part is made of; the local part itself counts whatever its length
_MAX_NAMES = 20_000


class Veil:
    """Shows the texts of one trace. ``key`` is 16 octets of secret randomness or more; None leaves addresses clear."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        self._names: dict[str, str] = {}

    @property
    def addresses(self) -> Addresses:
        """How addresses are shown."""
        return Addresses.CLEAR if self._key is None else Addresses.HASHED

    def know(self, envelope: Iterable[bytes]) -> None:
        """The addresses of the envelope: their names are looked for wherever a text may hold them."""
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
        """A text that somebody else chose, its addresses shown as they may be."""
        if self._key is None or not text:
            return text
        return _RUN.sub(self._run, _without_half_word(text))

    def facts(self, text: str) -> str:
        """A text that is hardly about the envelope (records, certificates, capabilities): only addresses are hidden."""
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
