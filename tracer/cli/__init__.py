"""The commands: options, help text and wiring."""
