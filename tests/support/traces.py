"""Traces of deliveries over a scripted network, and hypothesis strategies for traces of any content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from tests.support.network import address, message, table

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.events import Event
from zsmtp.net.scripted import Host, ScriptedNetwork
from zsmtp.observers import document
from zsmtp.observers.document import Addresses, Fates, Safety, Trace
from zsmtp.observers.trace import Handle, TraceRecorder

START = 1_795_000_000.0  # 2026-11-18


class TracedWorld:
    """A network whose ``i``-th host is the ``i``-th mail exchanger of example.org, with a recorder that listens."""

    def __init__(
        self, *hosts: Host | Sequence[Host], settings: SessionSettings | None = None, hashed: bool = False, **net: Any
    ) -> None:
        lives = {address(i): [host] if not isinstance(host, Sequence) else host for i, host in enumerate(hosts)}
        net.setdefault("dns", table(len(hosts)))
        self.network = ScriptedNetwork(lives, observer=self._hear, **net)
        self.handed: list[tuple[Handle, Trace]] = []
        self.complaints: list[str] = []
        self.recorder = TraceRecorder(
            lambda handle, trace: self.handed.append((handle, trace)),
            clock=lambda: self.network.now,
            wall=lambda: START + self.network.now - 1000.0,
            hashed=hashed,
            random=bytes,
            complain=self.complaints.append,
        )
        self.courier = Courier(settings or SessionSettings(helo_name="client.example"), self._hear)
        self.route = Route(DestinationRequest(destination="example.org", shuffle=lambda items: None))

    def _hear(self, event: Event) -> None:
        self.recorder(event)

    def deliver(self, *messages: Message, idle: float = 0.0, close: bool = True) -> list[Trace]:
        """Deliver, the others riding on the first where they can; the last trace of each delivery of this world."""
        deliveries = [
            Delivery(one, Ledger(len(one.envelope.recipients), lambda number, verdict: None), f"S{number}")
            for number, one in enumerate(messages or [message()], 1)
        ]
        waiting = iter(deliveries[1:])
        first = deliveries[0]
        self.network.run(self.courier.deliver(self.route, first, lambda: next(waiting, None), idle=idle))
        for one in waiting:
            self.network.run(self.courier.deliver(self.route, one))
        if close:
            self.network.run(self.courier.close(self.route, "done"))
        assert not self.complaints
        return self.traces

    @property
    def traces(self) -> list[Trace]:
        """The last trace of each delivery."""
        return list({handle.number: trace for handle, trace in self.handed}.values())


_texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=30)
_times = st.floats(-1e6, 1e6, allow_nan=False)
_lists = st.lists(_texts, max_size=3).map(tuple)


def _item(kind: type, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(values: dict[str, Any]) -> Any:
        length = values.pop("length")
        end = None if length is None else values["start"] + length
        return kind(end=end, **values)

    common = {"start": _times, "length": st.none() | st.floats(0, 1e6), "shared": st.booleans()}
    return st.fixed_dictionaries(common | fields).map(build)


_items = st.one_of(
    _item(
        document.LookupItem,
        name=_texts,
        record_type=_texts,
        records=_lists,
        safety=st.sampled_from(Safety),
        source=_texts,
    ),
    _item(document.FetchItem, host=_texts, octets=st.integers(0, 65536), problem=_texts),
    _item(document.ConnectItem, host=_texts, address=_texts, port=st.integers(0, 65535), failed=_texts),
    _item(document.HandshakeItem, server_name=_texts, session=_texts, peer=_texts, error=_texts),
    _item(document.ExchangeItem, phase=_texts, sent=_texts, code=st.just(0) | st.integers(200, 599), reply=_lists),
    _item(document.ContentItem, octets=st.integers(0, 1 << 50), recipients=st.integers(0, 1000)),
    _item(document.DecisionItem, about=_texts, text=_texts),
    _item(document.BrokenItem, reason=_texts, phase=_texts),
)
_recipients = st.builds(
    document.TracedRecipient,
    address=_texts,
    at=st.none() | _times,
    fate=st.sampled_from(["", "delivered", "failed", "deferred"]),
    text=st.lists(_texts, max_size=3).map("\n".join),
    in_doubt=st.booleans(),
)
traces = st.builds(
    Trace,
    program=_texts,
    started=_texts,
    seconds=st.floats(0, 1e6),
    name=_texts,
    destination=_texts,
    sender=_texts,
    addresses=st.sampled_from(Addresses),
    fates=st.builds(Fates, recipients=st.integers(5, 9), delivered=st.integers(0, 2), failed=st.integers(0, 2)),
    recipients=st.lists(_recipients, max_size=4).map(tuple),
    connections=st.lists(_texts, max_size=3).map(
        lambda hosts: tuple(
            document.TracedConnection(number=number, host=host, address="192.0.2.1", port=25, opened=0.5)
            for number, host in enumerate(hosts, 1)
        )
    ),
    items=st.lists(_items, max_size=8).map(tuple),
    left_out=st.integers(0, 1000),
)
"""Traces that are well formed, whatever stands in them."""
