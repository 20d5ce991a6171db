"""Decontamination: which documents hold items of an evaluation, and which items of an evaluation are in the corpus."""
