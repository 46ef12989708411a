"""What a person or a program reads: text lines, JSON lines, tables."""
