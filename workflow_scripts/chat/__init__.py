"""Talking to what was trained: in the terminal, on a local page, or through an OpenAI-compatible server."""
