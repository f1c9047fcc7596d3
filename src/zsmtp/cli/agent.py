"""``zsmtp smtp``: the transport agent as a subcommand of ``zsmtp``."""

from __future__ import annotations


def run(arguments: list[str]) -> int:
    """Run the agent with its own arguments; return its exit status."""
    from zsmtp.zmailer.agent import main

    return main(arguments)
