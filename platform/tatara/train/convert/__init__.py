"""Models in and out of training: Hugging Face directories, upcycling, averaging, each with proof."""
