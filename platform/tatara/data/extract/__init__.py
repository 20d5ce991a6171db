"""Main text of web pages: encodings, boilerplate removal, tables, code and mathematics."""
