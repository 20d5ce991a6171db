"""Bytes to clean text: encodings and repair."""
