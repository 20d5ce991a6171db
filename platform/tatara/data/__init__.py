"""Corpora: read, repair, filter, deduplicate, tokenise and pack."""
