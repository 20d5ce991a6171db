"""A recipe is a DAG of stages; run what is missing.

`definition` reads the page, `planning` says what has to run, `execution` runs it, `record` keeps what happened.
"""
