"""Metrics for Prometheus: what is counted, its text, the file and the listener that offer it."""
