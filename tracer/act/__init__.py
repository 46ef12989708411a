"""What tcpwatch does to connections: it ends them. Tracing changes nothing; only this package does.

An action has two steps. The first reads: it finds the connections that it may touch, and how the kernel names each.
The second acts on these and on no other connection, after a person or `--yes` has agreed to what was shown.
"""
