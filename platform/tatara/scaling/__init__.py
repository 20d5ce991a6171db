"""Scaling laws: from a table of small runs to the size, the tokens and the loss of a large one."""
