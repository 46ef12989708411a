"""The incident of `tcpwatch demo` in network namespaces of its own: client, firewall, server."""
