"""Personally identifiable information and secrets: finding them, and redacting or dropping."""
