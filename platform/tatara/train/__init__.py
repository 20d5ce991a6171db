"""Training: parallel layout, engine, batches, checkpoints, the Ray Train job, and export."""
