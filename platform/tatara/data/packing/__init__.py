"""Packing: which piece of which document goes into which training sequence."""
