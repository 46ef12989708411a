"""The page of `tcpwatch report --html`: one file with inline SVG, without script and without any request."""
