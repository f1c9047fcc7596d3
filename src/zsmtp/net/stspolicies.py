"""MTA-STS as drivers carry it out: policies remembered and fetched (RFC 8461 3.3, 10.2).

The rules (``zsmtp.tls.mtasts``) await three effects: ``RecallPolicy`` and ``KeepPolicy`` for what is remembered of a
domain, ``FetchPolicy`` for the one GET over HTTPS. A driver has one :class:`PolicyKeeper` for all of them, which knows
the cache on disk and where the trust anchors are::

    keeper = PolicyKeeper("/var/spool/postoffice/mta-sts.db", complain)
    recalled = keeper.recall(effect)
    fetched = carry_out(keeper.fetch(effect), perform)

:meth:`~PolicyKeeper.recall` and :meth:`~PolicyKeeper.keep` block: for the disk, and for as long as another process
writes to the cache (two seconds at most). A driver that must not be held up calls them in a thread; calls must not
overlap. :meth:`~PolicyKeeper.fetch` is an operation like any other, which the driver carries out itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from zsmtp.effects import FetchPolicy, KeepPolicy, Operation, RecallPolicy
from zsmtp.net.policycache import PolicyCache
from zsmtp.tls import https
from zsmtp.tls.context import WebContextOptions
from zsmtp.tls.mtasts import CachedPolicy, FetchedPolicy, RecalledPolicy


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
        self._trust = WebContextOptions(ca_file, ca_path)
        self._port = port
        self._clock = clock

    def recall(self, effect: RecallPolicy) -> RecalledPolicy:
        """What is remembered of a domain, and the time."""
        return self.recalled(self._cache.get(effect.domain))

    def recalled(self, entry: CachedPolicy | None) -> RecalledPolicy:
        """The answer where this is remembered."""
        return RecalledPolicy(entry, self._clock())

    def keep(self, effects: Sequence[KeepPolicy]) -> None:
        """Remember all of these: one transaction, one wait for the disk."""
        self._cache.put_all([effect.entry for effect in effects], self._clock())

    def fetch(self, effect: FetchPolicy) -> Operation[FetchedPolicy]:
        """The operation that fetches a policy."""
        port = https.HTTPS_PORT if self._port is None else self._port
        return https.fetch_policy(effect, self._trust, port=port)

    def close(self) -> None:
        """Let go of the file; it is opened again when needed."""
        self._cache.close()
