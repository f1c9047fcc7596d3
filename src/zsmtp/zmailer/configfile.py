"""Reads a configuration file: its octets, bounded in size, and its permissions."""

from __future__ import annotations

import os
import stat

from zsmtp.errors import ConfigError
from zsmtp.records import NamedTuple


class ConfigFile(NamedTuple):
    """The content of a file, and its mode as in ``st_mode``."""

    data: bytes
    mode: int


def read_config_file(path: str, limit: int) -> ConfigFile:
    """Read the file ``path`` of at most ``limit`` octets.

    Raises OSError if it cannot be read, :class:`~zsmtp.errors.ConfigError` if it is no regular file or longer.
    """
    # A FIFO must not block the agent until it is written to.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path}: not a regular file")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise ConfigError(f"{path}: longer than {limit} octets")
    return ConfigFile(data, mode)
