"""Recordings: JSON lines after a header, in one file, a series of files or a stream. Needs neither root nor bcc."""
