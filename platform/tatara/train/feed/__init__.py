"""What a training run reads: packed tokens, mixed from sources, at positions that are a function of the step."""
