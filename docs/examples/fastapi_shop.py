"""A shop in FastAPI: one queue for the application, which also delivers; no request waits for a mail server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage

from fastapi import FastAPI, HTTPException, Request

import zsmtp
import zsmtp.aio


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the queue when the application starts; closing it waits for deliveries under way."""
    where = os.environ.get("MAIL_QUEUE", "/var/lib/shop/mail.db")
    relay = zsmtp.Relay.from_url(os.environ.get("MAIL_RELAY", "smtp://localhost"))
    async with zsmtp.aio.Queue.open(where, config=zsmtp.Config(relay=relay), deliver=True) as queue:
        app.state.queue = queue
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders/{number}")
async def order(number: str, address: str, request: Request) -> dict[str, str]:
    """Take an order; the same order sent twice makes one mail."""
    mail = EmailMessage()
    mail["From"] = "Shop <shop@example.org>"
    mail["To"] = address
    mail["Subject"] = f"Your order {number}"
    mail.set_content("Thank you!\n")
    try:
        return {"mail": await request.app.state.queue.submit(mail, idempotency_key=f"order {number}")}
    except zsmtp.SubmissionError as error:
        raise HTTPException(400, str(error)) from error


@app.get("/mail/{id}")
async def delivered(id: str, request: Request) -> dict[str, str]:
    """The final results of a mail, by recipient."""
    status = await request.app.state.queue.status(id)
    return {end.address: end.outcome.value for end in status.ends}
