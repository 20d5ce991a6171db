"""Heuristic filters: published rules over the characters, words and lines of a document."""
