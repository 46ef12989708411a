"""One run of the tool, live or from recordings: the pipeline from the source to the sinks, its start and its end."""
