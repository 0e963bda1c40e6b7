"""Asking models behind OpenAI-compatible endpoints, for verdicts (score) and for rows (synthesise)."""
