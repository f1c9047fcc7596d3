"""The network of a node by the configuration: where a queue key leads, and what keeps it from leading anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from zsmtp.client.config import Config, Direct, Relay
from zsmtp.errors import ConfigError
from zsmtp.queue.connections import EngineConnections

KEY = "relay:mail.example:25"


def play(config: Config, story: Callable[[EngineConnections], Awaitable[None]]) -> None:
    async def run() -> None:
        connections = EngineConnections(config)
        try:
            await story(connections)
        finally:
            await connections.aclose()

    asyncio.run(run())


async def allow(_: object) -> bool:
    return True


def test_a_relay_that_is_not_configured_is_named_until_it_is() -> None:
    async def story(connections: EngineConnections) -> None:
        assert connections.problem(KEY) == "no relay mail.example:25 is configured any more"
        assert connections.problem("example.org") == ""
        assert not connections.is_lmtp(KEY)
        with pytest.raises(ConfigError, match="no relay"):
            connections.connection(KEY, allow)
        for config in (
            Config(relay=Relay(host="mail.example")),
            Config(routes={"x.example": Relay(host="mail.example")}),
            Config(sender_routes={"x.example": Relay(host="mail.example", lmtp=True, port=25)}),
        ):
            connections.reroute(config)
            assert connections.problem(KEY) == ""
            assert not connections.connection(KEY, allow).is_open
        assert connections.is_lmtp(KEY)
        connections.reroute(Config())
        assert connections.problem(KEY) == "no relay mail.example:25 is configured any more"

    play(Config(), story)


def test_what_cannot_be_used_is_a_problem_as_long_as_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the configuration cannot be used when it is needed: it costs no attempt."""

    async def story(connections: EngineConnections) -> None:
        def fail(self: object) -> None:
            raise ConfigError("nameserver: there is none on this machine")

        with monkeypatch.context() as patch:
            patch.setattr("zsmtp.client.destinations.Destinations.policies", fail)
            assert connections.problem("example.org") == "nameserver: there is none on this machine"
            assert connections.problem(KEY) == ""
        assert connections.problem("example.org") == ""

    play(Config(direct=Direct(nameserver="127.0.0.1"), routes={"x.example": Relay(host="mail.example")}), story)
