"""The types that all other packages share: events, sockets, filters, counts, errors. Imports nothing of tracer."""
