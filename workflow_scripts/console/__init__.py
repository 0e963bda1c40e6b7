"""What a run shows while it goes: the console of `make results`, and `make status`. Only the head loads it."""
