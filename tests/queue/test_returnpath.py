"""Return paths: what they look like, and that nobody else can make one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.queue.harness import DAY, NOON, new

from zsmtp.errors import ConfigError
from zsmtp.queue import intake
from zsmtp.queue.bouncekeys import MAX_KEYS, OCTETS, keys_of, make_keys, put_new_key, read_keys
from zsmtp.queue.ids import first_id, to_text
from zsmtp.queue.returnpath import BounceConfig, ReturnedTo, ReturnPath, Unproven
from zsmtp.queue.states import QueuedMessage, QueuedRecipient

KEY = b"k" * OCTETS
BY_MESSAGE = "bounce+{id}@example.net"
BY_RECIPIENT = "b-{recipient}.{id}@Example.net"
ID = first_id(NOON) + 5


def path(template: str = BY_MESSAGE, *keys: bytes, shard: int = 0, **values: Any) -> ReturnPath:
    return ReturnPath(BounceConfig(return_path=template, key_file="-", **values), keys or (KEY,), shard)


def queued(*addresses: str, **values: Any) -> tuple[QueuedMessage, list[QueuedRecipient]]:
    made = new(*addresses or ("bob@example.org",), **values)
    message = intake.message_of(made, ID, NOON, size=9, recipients=len(made.recipients))
    pairs = enumerate(made.recipients)
    return message, [intake.recipient_of(made, one, ID, number, hold=0) for number, one in pairs]


def sender(returns: ReturnPath, now: float = NOON, **values: Any) -> bytes:
    return returns.sender_of(*queued(**values), now)


def test_a_message_has_one_return_path() -> None:
    returns = path()
    address = sender(returns)
    assert re.fullmatch(rb"bounce\+%b[0-9a-z]{19}@example\.net" % to_text(ID).encode(), address)
    assert returns.recognise(address, NOON) == ReturnedTo(ID, None)
    assert returns.recognise(address.upper(), NOON) == ReturnedTo(ID, None)
    message, recipients = queued("a@example.org", "b@example.org")
    assert returns.sender_of(message, recipients, NOON) == address
    assert not returns.is_of_one(message)


def test_a_recipient_has_one_if_the_template_says_so() -> None:
    returns = path(BY_RECIPIENT)
    message, recipients = queued("a@example.org", "b@example.org")
    assert returns.is_of_one(message)
    found = [returns.sender_of(message, [one], NOON) for one in recipients]
    assert [returns.recognise(one, NOON) for one in found] == [ReturnedTo(ID, 0), ReturnedTo(ID, 1)]
    other = found[0].replace(b"b-0.", b"b-1.")
    assert isinstance(returns.recognise(other, NOON), Unproven)
    assert isinstance(returns.recognise(found[0].replace(b"b-0.", b"b-00."), NOON), Unproven)


def test_mail_without_a_sender_and_of_others_stays_as_it_is() -> None:
    returns = path(BY_RECIPIENT, senders=("News@*.example",))
    assert sender(returns, sender=b"") == b""
    assert sender(returns, sender=b"ann@shop.example") == b"ann@shop.example"
    assert sender(returns, sender=b"news@SHOP.example").startswith(b"b-0.")
    assert not returns.is_of_one(queued(sender=b"ann@shop.example")[0])


def test_a_message_keeps_its_path_for_a_week() -> None:
    returns = path()
    first = sender(returns)
    assert sender(returns, NOON + 6 * DAY) == first
    assert sender(returns, NOON - DAY) == first
    assert sender(returns, NOON + 7 * DAY) != first
    later = sender(returns, NOON + 20 * DAY, options={"not_before": NOON + 20 * DAY})
    assert later == sender(returns, NOON + 26 * DAY, options={"not_before": NOON + 20 * DAY}) != first


def test_a_path_is_good_for_a_month() -> None:
    returns = path()
    address = sender(returns)
    for days, good in ((-1, True), (30, True), (31, False), (-2, False), (4000, False)):
        assert isinstance(returns.recognise(address, NOON + days * DAY), ReturnedTo) is good


@pytest.mark.parametrize(
    "address",
    [b"", b"bounce@example.net", b"bounce+x@example.net", b"\xff", b"ann@example.org", b"bounce+@example.net"],
)
def test_other_addresses_are_none(address: bytes) -> None:
    assert path().recognise(address, NOON) is None
    assert ReturnPath(BounceConfig(), (), 0).recognise(address, NOON) is None


@given(st.data())
def test_what_is_changed_proves_nothing(data: st.DataObject) -> None:
    returns = path(BY_RECIPIENT)
    address = sender(returns)
    place = data.draw(st.integers(0, len(address) - 1))
    changed = address[:place] + data.draw(st.binary(min_size=1, max_size=1)) + address[place + 1 :]
    found = returns.recognise(changed, NOON)
    assert (changed.lower() == address.lower()) is isinstance(found, ReturnedTo)


@given(st.binary(max_size=90))
def test_nothing_raises(address: bytes) -> None:
    assert not isinstance(path().recognise(address, NOON), ReturnedTo)


def test_keys_and_shards_are_told_apart() -> None:
    old, new_key = b"o" * OCTETS, b"n" * OCTETS
    address = sender(path(BY_MESSAGE, old))
    assert path(BY_MESSAGE, new_key, old).recognise(address, NOON) == ReturnedTo(ID, None)
    assert path(BY_MESSAGE, new_key).recognise(address, NOON) == Unproven("it is forged, or of a removed key")
    assert sender(path(BY_MESSAGE, new_key, old)) != address
    assert path(BY_MESSAGE, old, shard=3).recognise(address, NOON) == Unproven(
        "it is of shard 0, and this queue is shard 3"
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("bounce@example.net", "one {id}"),
        ("{id}{id}@example.net", "one {id}"),
        ("{id}{recipient}{recipient}@example.net", "one {id}"),
        ("{id}{name}@example.net", "one {id}"),
        ("{id@example.net", "one {id}"),
        ("bounce@{id}.example.net", "one {id}"),
        ("{id}@", "return_path"),
        ("{id}", "one {id}"),
        ("b+{id}@exa mple.net", "return_path"),
        ("b {id}@example.net", "blank"),
        ("bö{id}@example.net", "not ASCII"),
        ("a-prefix-of-some-length+{id}-{recipient}@example.net", "64 are the limit"),
    ],
)
def test_templates_that_make_no_addresses(template: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"^return_path: ") as caught:
        BounceConfig(return_path=template, key_file="-")
    assert words in str(caught.value)


def test_a_template_needs_a_key() -> None:
    with pytest.raises(ConfigError, match=r"^key_file: is missing"):
        BounceConfig(return_path=BY_MESSAGE)
    assert keys_of(BounceConfig(key_file="/nowhere")) == ()


# ------------------------------------------------------------------------- keys


def test_keys_are_made_and_rotated(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    make_keys(str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    (first,) = read_keys(str(file))
    assert len(first) == OCTETS
    with pytest.raises(FileExistsError):
        make_keys(str(file))
    for number in range(2, MAX_KEYS + 2):
        assert put_new_key(str(file)) == min(number, MAX_KEYS)
        assert (first in read_keys(str(file))) is (number <= MAX_KEYS)
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["keys"]


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "keys"

    def problem() -> str:
        with pytest.raises(ConfigError) as caught:
            keys_of(BounceConfig(return_path=BY_MESSAGE, key_file=str(file)))
        assert KEY.hex() not in str(caught.value)
        return str(caught.value)

    assert problem() == f"key_file: {file} is not there; zsmtp bounce key {file} makes it"
    file.write_text(f"# nothing\n\n{KEY.hex()}\n")
    file.chmod(0o640)
    assert "chmod 600" in problem()
    file.chmod(0o600)
    assert read_keys(str(file)) == (KEY,)
    for text in (f"{KEY.hex()}\n{KEY.hex()}x\n", f"{KEY.hex()}\n\xff\n", f"{KEY.hex()}\n{KEY.hex()}00\n"):
        file.write_text(text)
        assert "line 2 is no key" in problem()
    for text in ("# nothing\n", f"{KEY.hex()}\n" * (MAX_KEYS + 1)):
        file.write_text(text)
        assert "keys; 1 to 4 are possible" in problem()
    file.unlink()
    os.mkfifo(file, 0o600)
    assert "not a regular file" in problem()
