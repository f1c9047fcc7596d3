"""The ``zsmtp`` command."""
