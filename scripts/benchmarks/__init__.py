"""What tcpwatch costs, beside other tools and against its budgets: scripts/bench.

    load → workloads ┐
    watchers ────────┴→ rows → results → table

Everything runs in network namespaces of its own and ends with us, whatever ends us.
"""
