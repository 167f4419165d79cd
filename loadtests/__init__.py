"""Puts realistic load on a running service, within bounds that fail it: `python -m loadtests --help`."""
