"""What the events mean together. Pure: no I/O, no clock, no kernel."""
