"""MTA-STS as drivers carry it out: policies remembered and fetched (RFC 8461 3.3, 10.2).

The rules (``zsmtp.tls.mtasts``) await three effects: ``RecallPolicy`` and ``KeepPolicy`` for what is remembered of a
domain, ``FetchPolicy`` for the one GET over HTTPS. A driver hands all of them to one :class:`PolicyKeeper`, which has
the cache on disk and the trust anchors, both opened at first need and kept for the life of the process::

    keeper = PolicyKeeper("/var/spool/postoffice/mta-sts.db", complain)
    answer = keeper.carry_out(effect, interrupt=stop.fileno())

It blocks: for as long as another process writes to the cache (two seconds at most), and for ``https.FETCH_TIME`` while
a policy is fetched. A driver that must not be held up calls it in a thread; calls must not overlap.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from zsmtp.effects import FetchPolicy, KeepPolicy, PolicyEffect, RecallPolicy
from zsmtp.net import https
from zsmtp.net.policycache import PolicyCache
from zsmtp.tls.mtasts import FetchedPolicy, RecalledPolicy
from zsmtp.tls.problem import TLSProblem

if TYPE_CHECKING:
    import ssl


class PolicyKeeper:
    """Remembers policies in the file ``path`` ("": for the life of the process), and fetches them.

    ``ca_file`` and ``ca_path`` hold the trust anchors for policy hosts ("" both: the system's). ``complain`` hears once
    why the file is not used. ``port`` is where policy hosts listen, for tests; nobody else has a choice.
    """

    def __init__(
        self,
        path: str,
        complain: Callable[[str], None],
        *,
        ca_file: str = "",
        ca_path: str = "",
        port: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = PolicyCache(path, complain)
        self._authorities = (ca_file or None, ca_path or None)
        self._context: ssl.SSLContext | None = None
        self._port = port
        self._clock = clock

    def carry_out(self, effect: PolicyEffect, *, interrupt: int | None = None) -> object:
        """The answer to one effect of the rules.

        ``interrupt`` is a descriptor that becomes readable when a fetch is to be given up.
        """
        if isinstance(effect, RecallPolicy):
            return RecalledPolicy(self._cache.get(effect.domain), self._clock())
        if isinstance(effect, KeepPolicy):
            self._cache.put(effect.entry, self._clock())
            return None
        return self._fetch(effect, interrupt)

    def close(self) -> None:
        """Let go of the file; it is opened again when needed."""
        self._cache.close()

    def _fetch(self, effect: FetchPolicy, interrupt: int | None) -> FetchedPolicy:
        if self._context is None:
            try:
                self._context = https.pkix_context(*self._authorities)
            except OSError as error:  # ssl.SSLError is one
                problem = f"no CA certificates to check {effect.host} with: {error}"
                return FetchedPolicy(failure=TLSProblem.STS_POLICY_FETCH_ERROR, problem=problem)
        port = https.HTTPS_PORT if self._port is None else self._port
        deadline = time.monotonic() + https.FETCH_TIME
        return https.fetch_policy(effect, self._context, deadline=deadline, interrupt=interrupt, port=port)
