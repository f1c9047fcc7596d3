"""Messages between processes: whole, in order, with their descriptors, whatever the socket takes at a time."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import tempfile
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any

import pytest

from zsmtp.client.config import Config, Relay
from zsmtp.queue.workers import channel as channels
from zsmtp.queue.workers.channel import Channel, encode
from zsmtp.queue.workers.messages import ConfigureWorker
from zsmtp.queue.workers.passing import PassedFile, descriptor_of


class End:
    """One end of a channel, and what came."""

    def __init__(self, sock: socket.socket) -> None:
        self.heard: list[Any] = []
        self.files: list[bytes] = []
        self.reasons: list[str] = []
        self.stirred = asyncio.Event()
        self.channel = Channel(sock, self._hear, self._end)

    def _hear(self, message: Any) -> None:
        self.heard.append(message)
        if message == "file":
            file = PassedFile(self.channel.take_descriptor())
            self.files.append(file.read())
            file.close()
        self.stirred.set()

    def _end(self, reason: str) -> None:
        self.reasons.append(reason)
        self.stirred.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.stirred.clear()
            await self.stirred.wait()


def play(story: Callable[[End, End], Awaitable[None]]) -> None:
    """Play between two ends of one channel."""

    async def run() -> None:
        one, other = map(End, socket.socketpair())
        try:
            await story(one, other)
        finally:
            one.channel.close()
            other.channel.close()

    asyncio.run(run())


def play_octets(story: Callable[[End, socket.socket], Awaitable[None]]) -> None:
    """Play between one end and whatever a test writes."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        one = End(ours)
        try:
            await story(one, theirs)
        finally:
            one.channel.close()
            theirs.close()

    asyncio.run(run())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_messages_come_in_their_order_both_ways_at_once() -> None:
    async def story(one: End, other: End) -> None:
        for number in range(5000):
            one.channel.send(("a", number))
            other.channel.send(("b", number))
            if number % 700 == 0:
                await asyncio.sleep(0)
        await other.until(lambda: len(other.heard) == 5000)
        await one.until(lambda: len(one.heard) == 5000)
        assert other.heard == [("a", number) for number in range(5000)]
        assert one.heard == [("b", number) for number in range(5000)]
        assert one.channel.backlog == other.channel.backlog == 0

    play(story)


def test_more_than_the_socket_takes_waits_and_is_counted() -> None:
    async def story(one: End, other: End) -> None:
        contents = [bytes([number]) * 1_000_000 for number in range(9)]
        for content in contents:
            one.channel.send(content, octets=len(content))
        one.channel.send("last")
        await asyncio.sleep(0)
        assert one.channel.backlog > 1_000_000
        await other.until(lambda: other.heard[-1:] == ["last"])
        assert other.heard == [*contents, "last"]
        assert one.channel.backlog == 0

    play(story)


def test_what_is_made_late_goes_behind_what_was_sent_in_the_turn() -> None:
    async def story(one: End, other: End) -> None:
        count = [0]
        one.channel.send_late(lambda: ("count", count[0]))
        for _ in range(3):
            one.channel.send("word")
            count[0] += 1
        await other.until(lambda: len(other.heard) == 4)
        assert other.heard == ["word", "word", "word", ("count", 3)]

    play(story)


def test_frames_may_be_cut_anywhere() -> None:
    async def story(one: End, sock: socket.socket) -> None:
        octets = encode(["first", b"x" * 300]) + encode([]) + encode(["second"])
        for number in range(len(octets)):
            sock.sendall(octets[number : number + 1])
            await asyncio.sleep(0)
        await one.until(lambda: len(one.heard) == 3)
        assert one.heard == ["first", b"x" * 300, "second"]

    play_octets(story)


def test_a_descriptor_comes_with_its_message() -> None:
    """Among others, when the socket is full as well; each process has a position of its own in the file."""

    async def story(one: End, other: End) -> None:
        before = descriptors()
        for number in range(100):
            with tempfile.SpooledTemporaryFile(1 << 20) as file:
                file.write(b"content %d" % number)
                one.channel.send("other", octets=10)
                one.channel.send("file", descriptor=descriptor_of(file))
                one.channel.send(b"y" * 50_000, octets=50_000)
        await other.until(lambda: len(other.heard) == 300)
        assert other.heard[::3] == ["other"] * 100
        assert other.heard[1::3] == ["file"] * 100
        assert other.files == [b"content %d" % number for number in range(100)]
        assert descriptors() == before

    play(story)


def test_a_passed_file_has_a_position_of_its_own() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        first, second = (PassedFile(descriptor_of(file)) for _ in range(2))
    assert first.read(4) == b"0123"
    assert second.read(2) == b"01"
    assert first.read() == b"456789"
    assert first.read(1) == b""
    assert (second.seek(-3, os.SEEK_END), second.read(2)) == (7, b"78")
    assert (second.seek(-1, os.SEEK_CUR), second.read(), second.seekable(), second.readable()) == (8, b"89", True, True)
    for one in (first, second):
        one.close()
        one.close()


def test_what_was_said_before_the_end_is_heard() -> None:
    async def story(one: End, other: End) -> None:
        other.channel.send("result")
        await asyncio.sleep(0)  # it is written
        other.channel.close()
        for _ in range(3):
            one.channel.send(b"x" * 100_000)  # to nobody
            await asyncio.sleep(0)
        await one.until(lambda: one.reasons)
        assert one.heard == ["result"]
        assert len(one.reasons) == 1
        assert not one.channel.open
        before = descriptors()
        with tempfile.TemporaryFile() as file:
            one.channel.send("file", descriptor=descriptor_of(file))
        one.channel.send("word")
        assert descriptors() == before

    play(story)


def test_what_waits_when_it_ends_is_let_go_of() -> None:
    before = descriptors()

    async def story(one: End, other: End) -> None:
        one.channel.send(b"x" * 2_000_000)
        with tempfile.TemporaryFile() as file:
            for _ in range(3):
                one.channel.send("file", descriptor=descriptor_of(file))
        await asyncio.sleep(0)

    play(story)
    assert descriptors() == before


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (struct.pack(">I", channels.MAX_FRAME + 1), "a frame of 67108865 octets came"),
        (struct.pack(">I", 5) + b"abcde", "a frame came that cannot be read: UnpicklingError"),
        (struct.pack(">I", 20) + b"short", "it is not there any more"),
    ],
)
def test_what_is_no_frame_ends_the_channel(octets: bytes, words: str) -> None:
    async def story(one: End, sock: socket.socket) -> None:
        sock.sendall(encode(["before"]) + octets)
        sock.shutdown(socket.SHUT_WR)
        await one.until(lambda: one.reasons)
        assert one.heard == ["before"]
        assert words in one.reasons[0]

    play_octets(story)


def test_a_value_that_cannot_travel_ends_the_channel() -> None:
    async def story(one: End, other: End) -> None:
        one.channel.send(lambda: None)
        await other.until(lambda: other.reasons)
        assert "it cannot be told something" in one.reasons[0]

    play(story)


def test_a_descriptor_that_this_process_has_no_room_for_is_missing_and_the_next_one_is_not() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def story(one: End, other: End) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(b"content")
            one.channel.send("lost", descriptor=descriptor_of(file))
            await asyncio.sleep(0)  # it is written
            lowest = os.dup(file.fileno())
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                await other.until(lambda: other.heard)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert other.channel.take_descriptor() == -1
            one.channel.send("file", descriptor=descriptor_of(file))
            await other.until(lambda: other.files)
        assert (other.heard, other.files) == (["lost", "file"], [b"content"])

    play(story)


def test_a_configuration_travels_whole() -> None:
    async def story(one: End, other: End) -> None:
        relays = {"a.example": Relay.from_url("smtp://h"), "b.example": Relay.from_url("smtps://ann:x@h")}
        config = Config(routes=MappingProxyType(relays), sender_routes={"c@d.example": Relay.from_url("lmtp://h:24")})
        one.channel.send(ConfigureWorker(config, 20))
        await other.until(lambda: other.heard)
        (heard,) = other.heard
        assert heard.config == config
        with pytest.raises(TypeError):
            heard.config.routes["x"] = None

    play(story)
