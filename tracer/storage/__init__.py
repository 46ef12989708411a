"""Recordings: JSON lines behind a header. Needs neither root nor bcc."""
