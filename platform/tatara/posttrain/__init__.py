"""After pretraining: conversations, their tokens, and supervised fine-tuning."""
