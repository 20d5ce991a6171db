"""Documents that are not prose: which kind they are, and rules for code and mathematics."""
