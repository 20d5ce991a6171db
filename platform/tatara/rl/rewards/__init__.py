"""Rewards: what a finished response is worth, by rules, tests, user functions, reward models and judges."""
