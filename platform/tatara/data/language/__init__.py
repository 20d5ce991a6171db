"""Language identification, offline."""
