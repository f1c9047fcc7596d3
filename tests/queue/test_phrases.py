"""The files of phrases: what is refused and how, substitution, wrapping, and the choice of a language."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.queuenotices import PHRASES

from zsmtp.errors import ConfigError
from zsmtp.queue import templates
from zsmtp.queue.phrases import COMMON, MAX_FILE, OF_RECIPIENT, SECTIONS, Phrases, choose_language, wrapped
from zsmtp.queue.states import NoticeKind

ENGLISH = (Path(templates.__file__).parent / "en.txt").read_bytes()

# Subjects 1 to 7 of RFC 3463 with their details in IANA's registry "SMTP Enhanced Status Codes".
REGISTERED = [
    f"{subject}.{detail}" for subject, last in enumerate((0, 11, 4, 6, 7, 6, 10, 30)) for detail in range(last + 1)
]


def changed(text: str, base: str = "en") -> Phrases:
    return Phrases.parse(text.encode(), "some.txt", base, PHRASES[base])


@pytest.mark.parametrize("language", PHRASES)
@pytest.mark.parametrize("code", REGISTERED)
def test_every_registered_status_code_has_a_meaning(language: str, code: str) -> None:
    assert f"X.{code}" in PHRASES[language].reasons
    for cls in "45":
        assert PHRASES[language].reason(f"{cls}.{code}").endswith((".", ")"))


def test_the_meaning_of_a_code_is_its_own_or_that_of_its_subject() -> None:
    english = PHRASES["en"]
    assert english.reason("4.7.1") != english.reason("5.7.1")
    assert english.reason("5.7.999") == english.reasons["X.7.0"]
    assert english.reason("5.9.9") == english.reason("no code") == english.reason("") == english.reasons["X.0.0"]


@pytest.mark.parametrize("language", PHRASES)
def test_languages_have_the_same_codes_and_use_the_same_values(language: str) -> None:
    english, other = PHRASES["en"], PHRASES[language]
    assert other.reasons.keys() == english.reasons.keys()
    for section in SECTIONS:
        names = [sorted(name for line in one.sections[section] for name in line.names) for one in (english, other)]
        assert names[0] == names[1], section


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[opening]\nHello {you}\n", r"line 2: \{you\} cannot stand in \[opening\]; what can: \{contact\}"),
        ("\n[opening]\n{reply}\n", r"line 3: \{reply\} cannot stand in \[opening\]"),
        ("[opening]\n\nHello {host\n", r"line 3: a single \{"),
        ("[opening]\nHello host}\n", r"line 2: a single \}; a name is written \{name\}, a brace \}\}"),
        ("[opening]\n{Host}\n", r"line 2: a single \{"),
        ("[openning]\n", r"line 1: there is no section \[openning\]; known: subject failed, "),
        ("[opening\n", "line 1: a section is written"),
        ("[opening] here\n", "line 1: a section is written"),
        ("[opening]\n[closing]\n[opening]\n", r"line 3: the section \[opening\] is here a second time"),
        ("Hello\n", "line 1: text before the first section"),
        ("[subject failed]\n{subject}\n\n[opening]\n", r"line 2: the last line of \[subject failed\] must be one that"),
        ("[opening]\n\n[subject failed]\n", r"line 3: the last line of \[subject failed\]"),
        ("[reasons]\nno such mailbox\n", "line 2: a status code and its meaning are expected"),
        ("[reasons]\n3.1.1 what\n", "line 2: a status code"),
        ("[reasons]\nX.1.1\n", "line 2: a status code"),
        ("[reasons]\nX.1.1 a\nX.1.1 b\n", "line 3: the status code X.1.1 is here a second time"),
        ("[opening]\na\x1b[2Jb\n", "line 2: a control or format character"),
        ("[opening]\na\N{RIGHT-TO-LEFT OVERRIDE}b\n", "line 2: a control or format character"),
    ],
)
def test_a_mistake_is_found_when_the_file_is_read(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"^some\.txt.*{problem}"):
        changed(text)


def test_octets_that_are_no_utf8_are_found() -> None:
    with pytest.raises(ConfigError, match=r"^x\.txt, line 2: the line is not UTF-8$"):
        Phrases.parse(b"[opening]\nGr\xfc\xdfe\n", "x.txt", "de", PHRASES["de"])


def test_a_file_has_a_limit() -> None:
    with pytest.raises(ConfigError, match=f"{MAX_FILE} are the limit"):
        Phrases.parse(b"#" * (MAX_FILE + 1), "x.txt", "de", PHRASES["de"])


@pytest.mark.parametrize("section", [*SECTIONS, "reasons"])
def test_a_new_language_needs_every_section(section: str) -> None:
    before, _, after = ENGLISH.decode().partition(f"\n[{section}]\n")
    rest = after.partition("\n[")[2]
    text = f"{before}\n[{rest}" if rest else before
    word = "X.0.0" if section == "reasons" else rf"\[{section}\] is missing"
    with pytest.raises(ConfigError, match=word):
        Phrases.parse(text.encode(), "fr.txt", "fr")
    assert Phrases.parse(ENGLISH, "fr.txt", "fr").language == "fr"


def test_a_file_changes_what_is_in_it_and_nothing_else() -> None:
    mine = changed("# mine\n[closing]\r\nCall the {{desk}} of {host}.\n\n[reasons]\nX.1.1 Gone.\n")
    assert mine.text("closing", {"host": "mail.example.org"}) == ["Call the {desk} of mail.example.org."]
    assert mine.reason("5.1.1") == "Gone."
    assert mine.reason("5.1.2") == PHRASES["en"].reason("5.1.2")
    assert mine.sections["opening"] == PHRASES["en"].sections["opening"]


def test_a_line_without_its_value_is_left_out() -> None:
    mine = changed("[opening]\nA {subject}\n\n\nB\n\nC {date}\n")
    assert mine.text("opening", {"subject": "x", "date": "y"}) == ["A x", "", "B", "", "C y"]
    assert mine.text("opening", {"date": "y"}) == ["B", "", "C y"]
    assert mine.text("opening", {}) == ["B"]


def test_values_are_no_templates() -> None:
    mine = changed("[opening]\n{subject} {host}\n")
    assert mine.text("opening", {"subject": "{host} {{ {nothing}", "host": "h"}) == ["{host} {{ {nothing} h"]


def test_the_subject_is_the_first_line_that_can_be_filled_in() -> None:
    english = PHRASES["en"]
    values = {"recipient": "bob@example.com"}
    assert english.subject([NoticeKind.FAILED], values) == "Not delivered: your message to bob@example.com"
    assert english.subject([NoticeKind.DELAYED], {**values, "subject": "Lunch"}) == "Delayed: Lunch"
    assert english.subject(list(NoticeKind), {**values, "subject": "Lunch"}) == "Delivery report: Lunch"


@given(st.sampled_from(sorted(SECTIONS)), st.dictionaries(st.sampled_from(sorted(COMMON | OF_RECIPIENT)), st.text()))
def test_every_section_can_be_filled_with_anything(section: str, values: dict[str, str]) -> None:
    lines = PHRASES["de"].text(section, values)
    assert not lines or (lines[-1] and lines[0])


@given(st.text(alphabet="ab -\N{LATIN SMALL LETTER A WITH DIAERESIS}", max_size=300), st.integers(0, 20))
def test_wrapping_keeps_words_and_indentation(text: str, indent: int) -> None:
    lines = wrapped(" " * indent + text)
    assert " ".join(lines).split() == text.split()
    if text.strip():
        before = indent + len(text) - len(text.lstrip())
        assert all(len(line) - len(line.lstrip()) == before for line in lines)
        assert all(len(line) <= 72 or " " not in line.strip() for line in lines)


# ------------------------------------------------------------------- directories


def test_files_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "DE.txt").write_text("[closing]\nDas war alles.\n")
    (tmp_path / "fr.txt").write_bytes(ENGLISH)
    (tmp_path / "notes.md").write_text("not a language")
    phrases = templates.load(tmp_path)
    assert sorted(phrases) == ["de", "en", "fr"]
    assert phrases["de"].text("closing", {}) == ["Das war alles."]
    assert phrases["en"] == PHRASES["en"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: No such file or directory"):
        templates.load(tmp_path / "nowhere")
    (tmp_path / "de.txt").mkdir()
    with pytest.raises(ConfigError, match=r"de\.txt: Is a directory"):
        templates.load(tmp_path)
    (tmp_path / "de.txt").rmdir()
    (tmp_path / "my words.txt").write_text("")
    with pytest.raises(ConfigError, match=r"my words\.txt: the name is to be a language tag"):
        templates.load(tmp_path)
    (tmp_path / "my words.txt").unlink()
    (tmp_path / "de.txt").write_text("[opening]\n{hots}\n")
    with pytest.raises(ConfigError, match=r"de\.txt, line 2: \{hots\}"):
        templates.load(tmp_path)


# ---------------------------------------------------------------------- languages


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"", "en"),
        (b"Content-Language: de\n", "de"),
        (b"Content-Language: de-AT\n", "de"),
        (b"Content-Language: pt-BR\n", "pt-br"),
        (b"Content-Language: pt\n", "en"),
        (b"Content-Language: da, de\n", "de"),
        (b"Accept-Language: de\nContent-Language: en\n", "de"),
        (b"accept-language: fr, en;q=0.3, de;q=0.7\n", "de"),
        (b"Accept-Language: de;q=0, pt-BR;q=0.1\n", "pt-br"),
        (b"Accept-Language:\n de-CH-1996\n", "de"),
        (b"Accept-Language: *\nContent-Language: de\n", "de"),
        (b"Accept-Language: de;q=9, ,;;,\x00, =\n", "en"),
        (b"Subject: Accept-Language: de\n", "en"),
    ],
)
def test_the_language_that_the_sender_reads(header: bytes, expected: str) -> None:
    assert choose_language(header, {"en", "de", "pt-br"}, "en") == expected


@given(st.binary(max_size=200))
def test_whatever_a_header_says_there_is_a_language(value: bytes) -> None:
    header = b"Accept-Language: " + value + b"\nContent-Language: " + value
    assert choose_language(header, {"en", "de"}, "en") in {"en", "de"}
