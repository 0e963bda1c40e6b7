"""`make disk`, `make clean`: what takes how much room, and removing it; the head's user runs them."""
