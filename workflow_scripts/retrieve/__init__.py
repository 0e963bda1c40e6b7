"""Retrieval: passages of a textbook, say, that fit a question, written into the rows of a cleaned dataset."""
