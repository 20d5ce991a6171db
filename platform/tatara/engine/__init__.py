"""The vLLM adapter: configuration, environment and engines, shared by everything that generates."""
