"""Generated messages: headers as programs write them and worse, bodies of anything."""

from __future__ import annotations

from hypothesis import strategies as st

NAMES = [
    *("To", "to", "CC", "Subject", "Date", "Message-ID", "Reply-To", "Sender", "In-Reply-To", "References"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding", "List-Unsubscribe", "List-Unsubscribe-Post"),
    *("List-Id", "Resent-To", "Received", "X-Other"),
]

# Other verifiers take VT and FF for blanks at the ends of a value; a lone CR is a blank before anything is signed.
_WORD = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
_GAP = st.sampled_from([" ", "  ", "\t", " \t ", "\n ", "\n\t", " \n  ", "\n \n "])
_VALUE = st.lists(st.tuples(_GAP, _WORD), max_size=5).map(lambda parts: "".join(map("".join, parts)))
_FIELD = st.tuples(st.sampled_from(NAMES), st.sampled_from([":", ": ", ":\t"]), _VALUE, st.sampled_from(["", " "]))
_FROM = st.sampled_from(
    ["From: Ann <ann@example.org>", "FROM:ann@example.org", "From: \n\tann@example.org ", "from: ä <ann@example.org>"]
)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A header block with one From, lines ended by LF."""
    lines = ["".join(parts) for parts in draw(st.lists(_FIELD, max_size=8))]
    lines.insert(draw(st.integers(0, len(lines))), draw(_FROM))
    return "".join(f"{line}\n" for line in lines).encode()


_PIECES = [b"\r", b"\n", b"\r\n", b"\n\n\n", b" ", b"\t", b"  ", b".", b"\n.\n", b"\0", b"\xe4", b"word", b"x" * 1200]
BODIES = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=6), max_size=20).map(b"".join)
