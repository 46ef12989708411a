"""One run of the tool, live or from recordings: the pipeline from a source to sinks, its start and its end."""
