"""Mixing: how much of each source a training corpus holds."""
