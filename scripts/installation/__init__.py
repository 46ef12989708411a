"""The work of scripts/install: copy tcpwatch out of a tree, or remove that copy again.

    places, files → copy, unit → main

Standard library only: it runs on the distribution's Python before anything else is there.
"""
