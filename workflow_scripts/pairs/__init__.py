"""Preference pairs from a policy's own mistakes."""
