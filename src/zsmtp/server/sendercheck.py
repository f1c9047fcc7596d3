"""Checks the sender domains of a service while it runs: one warning for each fault that makes receivers refuse mail.

:class:`SenderCheck` checks the domains that a service signs for, and ``default_domain`` of its listeners, as
``zsmtp check`` does (``zsmtp.sender.checks``): after the start of the service, and after a reload that changed the
keys, the domains, relays or return paths. No other task waits for it. Every lookup has a deadline, and so has each
domain; a failed check is one quiet line. Mail over a relay comes from an address that is unknown here: for it only the
keys are checked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations
from zsmtp.client.ownsender import direct_only, own_sender, relay_of
from zsmtp.dns.answer import Answer
from zsmtp.dns.literal import domain_problem
from zsmtp.effects import observed
from zsmtp.errors import ConfigError
from zsmtp.escape import described, escape
from zsmtp.idn import to_ascii
from zsmtp.net.aio import AsyncDriver
from zsmtp.net.identity import parse_identity
from zsmtp.net.operations import LocalBinding
from zsmtp.queue.config import Deliver
from zsmtp.queue.returnpath import BounceConfig
from zsmtp.records import NamedTuple
from zsmtp.sender.authentication import check_authentication
from zsmtp.sender.checks import check_acceptance
from zsmtp.sender.findings import Grade, SenderFinding
from zsmtp.sender.ownkeys import OwnKeys, own_keys
from zsmtp.server.serviceconfig import ServiceConfig

log = logging.getLogger("zsmtp.service")

DOMAIN_TIME = 120.0
"""Seconds that the check of one domain may take."""


class CheckedSender(NamedTuple):
    """One sender to check: an address, the reverse-path of its mail, the keys that sign it."""

    address: str
    reverse_path: str
    keys: OwnKeys
    relayed: bool

    @property
    def domain(self) -> str:
        """The domain in From, in A-labels."""
        return self.address.rpartition("@")[2].lower()


def checked_senders(config: ServiceConfig, now: float) -> tuple[CheckedSender, ...]:
    """The senders of a configuration to check. Reads key files; raises ConfigError."""
    if not config.check_senders or config.queue.deliver is Deliver.NONE:
        return ()
    signed = [key.domain_ascii for key in config.delivery.dkim]
    default = [to_ascii(one.default_domain) or "" for one in config.listen.values()]
    found: dict[CheckedSender, None] = {}
    for domain in dict.fromkeys([*signed, *default]):
        if "." not in domain or domain_problem(domain) is not None:
            continue
        keys = own_keys(config.delivery.dkim, domain, now)
        for address, reverse_path in _reverse_paths(config.queue.bounces, domain):
            relayed = bool(relay_of(config.delivery, address))
            if keys.keys or not relayed:
                found[CheckedSender(address, reverse_path, keys, relayed)] = None
    return tuple(found)


def _reverse_paths(bounces: BounceConfig, domain: str) -> Iterator[tuple[str, str]]:
    """Addresses of a domain, one for each kind of reverse-path of its mail."""
    names = [one.replace("*", "x").replace("?", "x") for one in bounces.senders if one.lower().endswith(f"@{domain}")]
    kinds: dict[str, str] = {}
    for address in (f"postmaster@{domain}", *names):
        reverse_path = bounces.example_for(address.encode()).decode()
        kinds.setdefault("" if reverse_path == address else reverse_path, address)
    for reverse_path, address in kinds.items():
        yield address, reverse_path or address


class SenderCheck:
    """Checks the senders of one configuration after the other, in the background."""

    def __init__(self) -> None:
        self._senders: tuple[CheckedSender, ...] = ()
        self._said: frozenset[str] = frozenset()
        self._task: asyncio.Task[None] | None = None

    def start(self, config: ServiceConfig) -> None:
        """Check the senders of a configuration, unless they are the same as before. Raises nothing."""
        try:
            senders = checked_senders(config, time.time())
        except ConfigError as error:  # from a file that changed since it was read
            log.info("senders are not checked: %s", error)
            return
        if senders == self._senders:
            return
        self._senders = senders
        work = self._check(config.delivery, senders, self._task)
        self._task = asyncio.get_running_loop().create_task(work, name="zsmtp sender check")

    async def aclose(self) -> None:
        """End a running check."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _check(
        self, config: Config, senders: tuple[CheckedSender, ...], before: asyncio.Task[None] | None
    ) -> None:
        """End the check ``before``; check all senders, one after the other, and log the faults."""
        if before is not None:
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
        said: set[str] = set()
        direct = Destinations(direct_only(config))
        identity = parse_identity(config.local_address) if config.local_address else None
        driver = AsyncDriver(direct.resolver, LocalBinding(identity))
        try:
            for sender in senders:
                async with asyncio.timeout(DOMAIN_TIME):
                    findings = await self._findings(driver, config, sender)
                for text in _faults(sender, findings):
                    if text not in self._said and text not in said:
                        log.warning("%s", text)
                    said.add(text)
            self._said = frozenset(said)
        except Unanswered as error:
            self._give_up(f"no name server answers: {error}")
        except TimeoutError:
            self._give_up(f"it took more than {DOMAIN_TIME:.0f} seconds")
        except Exception as error:  # its failure must not end the service
            self._give_up(described(error))
        finally:
            direct.close()
            await driver.aclose()

    def _give_up(self, reason: str) -> None:
        """Log that the check is incomplete; the next reload tries again."""
        domains = ", ".join(dict.fromkeys(one.domain for one in self._senders[:3]))
        more = f" and {len(self._senders) - 3} more" if len(self._senders) > 3 else ""
        log.info("it is not known how receivers judge mail from %s%s: %s", escape(domains), more, escape(reason[:300]))
        self._senders = ()

    async def _findings(self, driver: AsyncDriver, config: Config, sender: CheckedSender) -> list[SenderFinding]:
        """The findings for one sender. Raises Unanswered if no lookup got an answer."""
        answers: list[Answer] = []

        def answered(effect: object, answer: object) -> None:
            if isinstance(answer, Answer):
                answers.append(answer)

        facts = await driver.run(own_sender(config, sender.address, now=time.time(), reverse_path=sender.reverse_path))
        work = check_authentication(facts) if sender.relayed else check_acceptance(facts)
        findings = await driver.run(observed(work, answered))
        if answers and all(answer.temporary for answer in answers):
            raise Unanswered(answers[-1].problem or answers[-1].status.value)
        return [one for one in findings if not sender.relayed or one.topic == "DKIM"]


class Unanswered(Exception):
    """No lookup got an answer."""


def _faults(sender: CheckedSender, findings: list[SenderFinding]) -> Iterator[str]:
    """A line for each finding that makes receivers refuse mail."""
    for one in findings:
        if one.grade is Grade.REFUSED:
            who = f" by {', '.join(one.receivers)}" if one.receivers else ""
            publish = f"; publish: {' '.join(one.publish.split())}" if one.publish else ""
            yield f"mail from {sender.domain} will be refused{who}: {one.topic}: {one.text}{publish}"
