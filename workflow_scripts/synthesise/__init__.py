"""Rows of data that a model writes."""
