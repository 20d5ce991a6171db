"""The curation pipeline: ordered steps over documents, out of core, on Ray Data."""
