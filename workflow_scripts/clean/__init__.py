"""Raw files to canonical rows, split by group, every loss counted."""
