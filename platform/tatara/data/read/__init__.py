"""Raw files to documents: one bad record or file is set aside with its reason and place, never the end of a run."""
