"""Computes how long a server waits for its client, from times that the caller passes (RFC 5321 4.5.3.2.7).

A wait counts only while it is the client's turn: not while the application owes an answer or has asked for a pause.
Octets by themselves are no progress: a command must be whole within its time, and content must keep up a rate. So a
client that sends single octets gains nothing over a silent one.
"""

from __future__ import annotations

from zsmtp.proto.server_events import Ending
from zsmtp.proto.server_settings import ServerTimeouts


class ServerWaits:
    """The present waits of one session and their beginnings. All times are on the caller's monotonic clock."""

    __slots__ = ("_began", "_came", "_content", "_octets", "_opened", "_paused", "_times", "_turn")

    def __init__(self, times: ServerTimeouts, now: float) -> None:
        self._times = times
        self._opened = now
        self._turn = now  # since when the client may send its next command
        self._content = False
        self._began = now  # when the content began, without the pauses
        self._came = now  # when octets of it came last
        self._octets = 0
        self._paused: float | None = None

    def turn(self, now: float) -> None:
        """A command was read, or answered: wait for the next one from now on."""
        self._turn = now

    def content_begins(self, now: float) -> None:
        """Wait for octets of content from now on."""
        self._content = True
        self._began = self._came = now
        self._octets = 0

    def content_came(self, octets: int, now: float) -> None:
        """Octets of content were read."""
        self._octets += octets
        self._came = now

    def content_ends(self, now: float) -> None:
        """Wait for commands from now on."""
        self._content = False
        self._turn = now

    def pause(self, now: float) -> None:
        """Stop the clock of all waits until :meth:`resume`."""
        if self._paused is None:
            self._paused = now

    def resume(self, now: float) -> None:
        """Go on waiting; the pause does not count."""
        if self._paused is not None:
            self._began += now - self._paused
            self._came = self._turn = now
            self._paused = None

    def next_end(self, *, turn: bool, unread: float | None, ending: float | None) -> tuple[float, Ending]:
        """The time when the session ends if nothing happens, and why. ``turn``: it is the client's.

        ``unread``: since when replies wait to be taken. ``ending``: since when the session only awaits answers to what
        it has read; then only that counts.
        """
        times = self._times
        if ending is not None:
            return ending + times.write, Ending.LOST
        end, reason = self._opened + times.session, Ending.SESSION_TIME
        if unread is not None and unread + times.write < end:
            end, reason = unread + times.write, Ending.WRITE_TIMEOUT
        if not turn or self._paused is not None:
            return end, reason
        if not self._content:
            command = self._turn + times.command
            return (command, Ending.COMMAND_TIMEOUT) if command < end else (end, reason)
        silent = self._came + times.data
        if silent < end:
            end, reason = silent, Ending.DATA_TIMEOUT
        if times.min_rate:
            slow = self._began + times.data + self._octets / times.min_rate
            if slow < end:
                end, reason = slow, Ending.TOO_SLOW
        return end, reason
