"""The loop of rollouts and training as a discrete-event model: how busy which devices are, at which staleness."""
