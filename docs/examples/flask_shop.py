"""A shop in Flask: its mail is in the queue before the customer is answered, and another process delivers it."""

from __future__ import annotations

import os
from email.message import EmailMessage
from functools import cache

import flask

import zsmtp

app = flask.Flask(__name__)
app.config["MAIL_QUEUE"] = os.environ.get("MAIL_QUEUE", "/var/lib/shop/mail.db")


@cache
def queue_of(process: int) -> zsmtp.Queue:
    """The queue of this process: servers of Flask fork, and a queue is opened after that."""
    return zsmtp.Queue.open(app.config["MAIL_QUEUE"])


@app.post("/orders/<number>")
def order(number: str) -> dict[str, str]:
    """Take an order; the same order sent twice makes one mail."""
    mail = EmailMessage()
    mail["From"] = "Shop <shop@example.org>"
    mail["To"] = flask.request.form["address"]
    mail["Subject"] = f"Your order {number}"
    mail.set_content("Thank you!\n")
    id = queue_of(os.getpid()).submit(mail, idempotency_key=f"order {number}")
    return {"mail": id}


@app.errorhandler(zsmtp.SubmissionError)
def no_address(error: zsmtp.SubmissionError) -> tuple[dict[str, str], int]:
    """Report an invalid address to the customer."""
    return {"error": str(error)}, 400
