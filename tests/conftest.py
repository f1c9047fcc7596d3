"""What all tests share: one profile for properties, so that a slow or a busy machine changes nothing."""

from __future__ import annotations

import gc
import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, settings
from tests.support.effort import EFFORT, examples

settings.register_profile(
    "zsmtp", max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("same", parent=settings.get_profile("zsmtp"), derandomize=True)
settings.load_profile("same" if EFFORT == 1 else "zsmtp")


def pytest_collection_finish() -> None:
    """What collecting the tests made stays to the end: no collection of garbage need look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nobody_was_warned_yet() -> None:
    """What a process says once was not said in another test."""
    from zsmtp.client import destinations

    destinations._warn_once.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _children_hear_signals() -> Iterator[None]:
    """Whoever started the tests: what a parent ignores its children ignore, and a shell's background jobs do."""
    ending = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)
    ignored = [one for one in ending if signal.getsignal(one) is signal.SIG_IGN]
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    yield
    for one in ignored:
        signal.signal(one, signal.SIG_IGN)


@pytest.fixture(scope="session")
def web_authority() -> trustme.CA:
    """An authority for servers that are connected to for real."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="session")
def server_context(web_authority: trustme.CA) -> Callable[[str], ssl.SSLContext]:
    """The context of a server with a certificate for a name."""

    def make(name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        web_authority.issue_cert(name).configure_cert(context)
        return context

    return make


@pytest.fixture(scope="session")
def ca_file(web_authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of that authority's certificate."""
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    web_authority.cert_pem.write_to_path(str(path))
    return str(path)
