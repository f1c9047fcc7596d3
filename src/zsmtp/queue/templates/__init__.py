"""Loads the texts of notices from files in the format of ``zsmtp.queue.phrases``: those of zsmtp and of an operator.

:func:`load` gives the phrases of every language, by tag::

    phrases = load()                              # the files of zsmtp
    phrases = load(Path("/etc/zsmtp/notices"))    # with an operator's files: en.txt, fr.txt ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.queue.phrases import MAX_FILE, Phrases

_NAME = re.compile(r"[a-z]{1,8}(-[a-z0-9]{1,8}){0,5}", re.IGNORECASE)


def load(directory: Path | None = None) -> Mapping[str, Phrases]:
    """The phrases by language. A file in ``directory`` overrides those of its language, or adds a language.

    Raises :class:`~zsmtp.errors.ConfigError` that names the file, and the line where there is one: also for a file
    that cannot be read, and for a ``.txt`` whose name is no language tag.
    """
    phrases: dict[str, Phrases] = {}
    for folder in (Path(__file__).parent, directory):
        if folder is not None:
            for path in _files(folder):
                language = path.stem.lower()
                phrases[language] = Phrases.parse(_read(path), escape(str(path)), language, phrases.get(language))
    return phrases


def _files(folder: Path) -> list[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".txt")
    except OSError as error:
        raise ConfigError(f"{escape(str(folder))}: {error.strerror}") from error
    for path in paths:
        if _NAME.fullmatch(path.stem) is None:
            raise ConfigError(f"{escape(str(path))}: the name is to be a language tag, such as en.txt or pt-br.txt")
    return paths


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{escape(str(path))}: {error.strerror}") from error
