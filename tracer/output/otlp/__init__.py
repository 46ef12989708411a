"""Export to OpenTelemetry: log records and metrics in OTLP's JSON encoding, and the client that posts them."""
