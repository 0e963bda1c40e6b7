"""Reward columns for a dataset."""
