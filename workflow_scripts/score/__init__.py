"""Answers to item-level scores."""
