"""Models behind an OpenAI-compatible HTTP API, on Ray Serve and vLLM."""
