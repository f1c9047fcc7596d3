"""``zsmtp smtp``: the transport agent, under the name of this program."""

from __future__ import annotations


def run(arguments: list[str]) -> int:
    """Run the agent with its own arguments; its exit status."""
    from zsmtp.zmailer.agent import main

    return main(arguments)
