"""``smtp -D host``: tests whether a connection to the host can be made, for a person at a terminal."""

from __future__ import annotations

import os
import sys

from zsmtp.dns.candidates import Family, Plan
from zsmtp.dns.destination import plan_destination
from zsmtp.effects import Close, Connect
from zsmtp.errors import INTERRUPTED, ConfigError
from zsmtp.events import ignore
from zsmtp.net.blocking import Stop
from zsmtp.zmailer import environment, zenv
from zsmtp.zmailer.options import AgentOptions

EX_OK = 0
EX_NOHOST = 68
EX_TEMPFAIL = 75
EX_CONFIG = 78


def try_connecting(options: AgentOptions) -> int:
    """Connect to the destination's candidates in order until one accepts; returns the exit status."""
    destination = options.force_destination or options.host or ""
    try:
        driver = environment.driver(options, zenv.load(os.environ), Stop(), ignore, _print)
    except ConfigError as error:
        _print(f"smtp: {error}")
        return EX_CONFIG
    plan = driver.run(plan_destination(environment.destination_request(options, destination)))
    if plan.failure is not None:
        _print(f"{destination}: {plan.failure.text}")
        return EX_NOHOST if plan.failure.permanent else EX_TEMPFAIL
    return driver.run(_walk(plan, options.connect_timeout))


async def _walk(plan: Plan, timeout: float) -> int:
    for candidate in plan.candidates:
        endpoint = candidate.endpoint
        where = "UNIX" if endpoint.family is Family.UNIX else f"{endpoint.address}|{endpoint.port}"
        result = await Connect((endpoint,), timeout)
        if result.stream is not None:
            _print(f"Trying {endpoint.host} [{where}] ... connected!")
            await Close(result.stream)
            return EX_OK
        reason = "; ".join(text for _, text in result.failures) or INTERRUPTED
        _print(f"Trying {endpoint.host} [{where}] ... {reason}")
    return EX_TEMPFAIL


def _print(text: str) -> None:
    print(text, file=sys.stderr)
