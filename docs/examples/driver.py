"""A driver for ``zsmtp.proto`` alone: one socket, one message, nothing else of zsmtp."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from zsmtp.proto import command
from zsmtp.proto.capabilities import parse_ehlo
from zsmtp.proto.phase import Phase, ReplyMeaning, Timeouts
from zsmtp.proto.plan import ContentForm, Envelope, plan_transaction
from zsmtp.proto.reply import Reply
from zsmtp.proto.session import Lost, Session, SessionEvent, StepAnswered


def events(sock: socket.socket, session: Session) -> Iterator[SessionEvent]:
    """The driver: move octets until no reply is due any more."""
    while True:
        while (event := session.next_event()) is not None:
            yield event
        now = time.monotonic()
        if out := session.data_to_send(now):
            session.data_written(sock.send(out), time.monotonic())
        elif (deadline := session.deadline()) is None:
            return
        else:
            sock.settimeout(max(deadline - now, 0.001))
            try:
                data = sock.recv(65536)
            except TimeoutError:
                session.handle_timer(time.monotonic())
                continue
            if data:
                session.receive_data(data, time.monotonic())
            else:
                session.receive_eof(time.monotonic())


def send(sock: socket.socket, name: bytes, envelope: Envelope, content: ContentForm) -> list[Reply]:
    """Greet, deliver, QUIT. Returns the replies in order; raises the error that ended the session."""
    session = Session(timeouts=Timeouts())
    replies: list[Reply] = []
    for event in events(sock, session):
        if isinstance(event, Lost):
            raise event.error
        if isinstance(event, StepAnswered):
            replies.append(event.reply)
            if event.result is not ReplyMeaning.SUCCESS:
                break
            if event.step.phase is Phase.GREETING:
                session.command(Phase.EHLO, command.hello(b"EHLO", name))
            elif event.step.phase is Phase.EHLO:
                offered = parse_ehlo(event.reply.lines)
                session.transact(plan_transaction(envelope, content, offered))
                session.command(Phase.QUIT, command.QUIT)
    return replies
