"""From a host name to the addresses its mail goes to."""
