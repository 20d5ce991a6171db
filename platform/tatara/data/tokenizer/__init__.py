"""Byte-level BPE: training it, extending it, and turning documents into tokens with it."""
