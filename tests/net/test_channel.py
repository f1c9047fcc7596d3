"""Messages between processes: complete, in order, with their descriptors, however the socket splits them."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import tempfile
from collections.abc import Awaitable, Callable
from threading import Thread
from types import MappingProxyType
from typing import Any

import pytest

from zsmtp.client.config import Config, Relay
from zsmtp.net import channel as channels
from zsmtp.net.channel import CLOSED, PEER_CLOSED, Channel, encode


class End:
    """One end of a channel, and the messages that arrived."""

    def __init__(self, sock: socket.socket, gather: float = 0.0) -> None:
        self.received: list[Any] = []
        self.files: list[bytes] = []
        self.reasons: list[str] = []
        self.changed = asyncio.Event()
        self.channel = Channel(sock, self._on_message, self._on_close, gather=gather)

    def _on_message(self, message: Any) -> None:
        self.received.append(message)
        if message == "file":
            descriptor = self.channel.take_descriptor()
            self.files.append(os.pread(descriptor, 1000, 0))
            os.close(descriptor)
        self.changed.set()

    def _on_close(self, reason: str) -> None:
        self.reasons.append(reason)
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


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
    """Play between one end and a socket that the test writes to."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        one = End(ours)
        try:
            await story(one, theirs)
        finally:
            one.channel.close()
            theirs.close()

    asyncio.run(run())


def descriptor_of(file: Any) -> int:
    """A new descriptor of a file, with its content written."""
    file.flush()
    return os.dup(file.fileno())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_messages_come_in_their_order_both_ways_at_once() -> None:
    async def story(one: End, other: End) -> None:
        for number in range(5000):
            one.channel.send(("a", number))
            other.channel.send(("b", number))
            if number % 700 == 0:
                await asyncio.sleep(0)
        await other.until(lambda: len(other.received) == 5000)
        await one.until(lambda: len(one.received) == 5000)
        assert other.received == [("a", number) for number in range(5000)]
        assert one.received == [("b", number) for number in range(5000)]
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
        await other.until(lambda: other.received[-1:] == ["last"])
        assert other.received == [*contents, "last"]
        assert one.channel.backlog == 0

    play(story)


def test_what_is_made_late_goes_behind_what_was_sent_in_the_turn() -> None:
    async def story(one: End, other: End) -> None:
        count = [0]
        one.channel.send_late(lambda: ("count", count[0]))
        for _ in range(3):
            one.channel.send("word")
            count[0] += 1
        await other.until(lambda: len(other.received) == 4)
        assert other.received == ["word", "word", "word", ("count", 3)]

    play(story)


def test_frames_may_be_cut_anywhere() -> None:
    async def story(one: End, sock: socket.socket) -> None:
        octets = encode(["first", b"x" * 300]) + encode([]) + encode(["second"])
        for number in range(len(octets)):
            sock.sendall(octets[number : number + 1])
            await asyncio.sleep(0)
        await one.until(lambda: len(one.received) == 3)
        assert one.received == ["first", b"x" * 300, "second"]

    play_octets(story)


def test_a_descriptor_comes_with_its_message() -> None:
    """Between other messages, and when the socket is full."""

    async def story(one: End, other: End) -> None:
        before = descriptors()
        for number in range(100):
            with tempfile.TemporaryFile() as file:
                file.write(b"content %d" % number)
                one.channel.send("other", octets=10)
                one.channel.send("file", descriptor=descriptor_of(file))
                one.channel.send(b"y" * 50_000, octets=50_000)
        await other.until(lambda: len(other.received) == 300)
        assert other.received[::3] == ["other"] * 100
        assert other.received[1::3] == ["file"] * 100
        assert other.files == [b"content %d" % number for number in range(100)]
        assert descriptors() == before

    play(story)


def test_messages_sent_before_the_end_are_received() -> None:
    async def story(one: End, other: End) -> None:
        other.channel.send("result")
        await asyncio.sleep(0)  # it is written
        other.channel.close()
        for _ in range(3):
            one.channel.send(b"x" * 100_000)  # the peer is gone
            await asyncio.sleep(0)
        await one.until(lambda: one.reasons)
        assert one.received == ["result"]
        assert len(one.reasons) == 1
        assert not one.channel.is_open
        before = descriptors()
        with tempfile.TemporaryFile() as file:
            one.channel.send("file", descriptor=descriptor_of(file))
        one.channel.send("word")
        assert descriptors() == before

    play(story)


def test_close_closes_descriptors_that_are_not_sent() -> None:
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
        (struct.pack(">I", channels.MAX_FRAME + 1), "a frame of 268435457 octets arrived"),
        (struct.pack(">I", 5) + b"abcde", "a frame arrived that cannot be decoded: UnpicklingError"),
        (struct.pack(">I", 20) + b"short", PEER_CLOSED),
    ],
)
def test_what_is_no_frame_ends_the_channel(octets: bytes, words: str) -> None:
    async def story(one: End, sock: socket.socket) -> None:
        sock.sendall(encode(["before"]) + octets)
        sock.shutdown(socket.SHUT_WR)
        await one.until(lambda: one.reasons)
        assert one.received == ["before"]
        assert words in one.reasons[0]
        assert one.channel.problem == ("" if words == PEER_CLOSED else one.reasons[0])

    play_octets(story)


def test_a_value_that_cannot_travel_ends_the_channel() -> None:
    async def story(one: End, other: End) -> None:
        one.channel.send(lambda: None)
        await other.until(lambda: other.reasons)
        assert "a message cannot be sent: " in one.reasons[0]

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
                await other.until(lambda: other.received)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert other.channel.take_descriptor() == -1
            one.channel.send("file", descriptor=descriptor_of(file))
            await other.until(lambda: other.files)
        assert (other.received, other.files) == (["lost", "file"], [b"content"])

    play(story)


def test_a_configuration_travels_whole() -> None:
    async def story(one: End, other: End) -> None:
        relays = {"a.example": Relay.from_url("smtp://h"), "b.example": Relay.from_url("smtps://ann:x@h")}
        config = Config(routes=MappingProxyType(relays), sender_routes={"c@d.example": Relay.from_url("lmtp://h:24")})
        one.channel.send(config)
        await other.until(lambda: other.received)
        (received,) = other.received
        assert received == config
        with pytest.raises(TypeError):
            received.routes["x"] = None

    play(story)


def test_a_frame_that_is_too_long_closes_the_channel_and_its_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MAX_FRAME", 1000)
    before = descriptors()

    async def story(one: End, other: End) -> None:
        one.channel.send(b"x" * 1000)
        with tempfile.TemporaryFile() as file:
            one.channel.send("file", descriptor=descriptor_of(file))
        await other.until(lambda: other.reasons)
        assert "a message cannot be sent: ValueError: a frame of 10" in one.channel.problem
        assert (other.received, other.reasons, other.channel.problem) == ([], [PEER_CLOSED], "")

    play(story)
    assert descriptors() == before


def test_gathered_messages_wait_for_flush_or_the_end_of_their_time() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        one, other = End(ours, gather=3600.0), End(theirs, gather=0.01)
        for number in range(2):
            one.channel.send(number)
        one.channel.send_late(lambda: "late")
        other.channel.send("timed")
        await one.until(lambda: one.received == ["timed"])
        assert other.received == []
        one.channel.flush()
        await other.until(lambda: len(other.received) == 3)
        assert other.received == [0, 1, "late"]
        one.channel.send("never sent")
        one.channel.close()
        one.channel.send_late(lambda: "discarded")
        one.channel.flush()
        await other.until(lambda: other.reasons)
        other.channel.close()
        assert (one.reasons, other.reasons, other.received[3:]) == ([CLOSED], [PEER_CLOSED], [])

    asyncio.run(run())


def test_drain_waits_until_the_socket_has_taken_everything_or_the_peer_is_gone() -> None:
    async def story(one: End, sock: socket.socket) -> None:
        one.channel.send(b"x" * 3_000_000)
        drain = asyncio.ensure_future(one.channel.drain())
        await asyncio.sleep(0)
        assert one.channel.backlog > 0
        assert not drain.done()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        while one.channel.backlog:
            await loop.sock_recv(sock, 1 << 20)
        await drain
        assert one.channel.backlog == 0
        await one.channel.drain()
        one.channel.send(b"x" * 3_000_000)
        drain = asyncio.ensure_future(one.channel.drain())
        await asyncio.sleep(0)
        assert not drain.done()
        sock.close()
        await drain
        await one.until(lambda: one.reasons)
        assert one.channel.problem == ""
        await one.channel.drain()

    play_octets(story)


def test_any_thread_may_send() -> None:
    """The loop is woken for it, and frames stay whole."""

    async def story(one: End, other: End) -> None:
        def work() -> None:
            for number in range(500):
                one.channel.send_threadsafe(number)

        threads = [Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        one.channel.send_threadsafe("loop")
        await other.until(lambda: len(other.received) == 1001)
        for thread in threads:
            thread.join()
        other.received.remove("loop")
        assert sorted(other.received) == sorted([*range(500), *range(500)])

    play(story)


def test_what_a_thread_sends_to_a_closed_loop_is_discarded() -> None:
    async def story() -> Channel:
        one, other = socket.socketpair()
        other.close()
        return Channel(one, lambda message: None, lambda reason: None)

    channel = asyncio.run(story())
    thread = Thread(target=channel.send_threadsafe, args=("late",))
    thread.start()
    thread.join()
    channel.close()
