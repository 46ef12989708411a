"""The incident in network namespaces: client, firewall, server. Nothing of the host is touched."""
