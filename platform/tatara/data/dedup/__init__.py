"""Deduplication of a corpus of any size: by URL, by text, by line, by near-duplicate, by meaning."""
