"""What tcpwatch does to connections: it probes, protects and ends them. All the rest of it changes nothing.

An action has two steps. The first reads: it finds the connections that it may touch, and how the kernel names each.
The second acts on these and on no other connection. Before any is ended, a person or `--yes` agrees to what is shown.
"""
