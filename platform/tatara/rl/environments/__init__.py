"""Environments: what answers the model between its turns, such as tools."""
