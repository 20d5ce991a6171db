"""What models say of a document: its quality, its topic, and how far its tokens are from its source's."""
