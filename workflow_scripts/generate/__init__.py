"""Prompt sets, and a policy's answers to them."""
