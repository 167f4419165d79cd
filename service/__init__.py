"""The edge of Kasbah: HTTP, command line, settings, processes."""

__version__ = "0.1.0"
