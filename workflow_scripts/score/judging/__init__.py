"""Judges: what they are asked about a policy's answers, how an endpoint is reached and paid, and their verdicts."""
