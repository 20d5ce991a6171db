"""What is trained: architecture specs, Megatron modules, attention, and the mapping to Hugging Face."""
