"""tcpwatch finds TCP connections that died while nobody was talking."""

__version__ = "0.1.0"
