"""The command line: ``zsmtp`` with its subcommands, and ``zsmtp-sendmail``."""
