"""Checkpoints: written while training goes on, found by their manifest, loaded in any layout."""
