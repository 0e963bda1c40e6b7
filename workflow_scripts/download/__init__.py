"""Fetch sources by pin and convert base models."""
