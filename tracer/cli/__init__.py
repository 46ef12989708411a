"""The commands: options, wiring and help text."""
