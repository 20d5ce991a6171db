"""Reinforcement learning: rollouts, rewards, admission, weight sync and the learner."""
