"""Tokenise conversations and fine-tune on them."""
