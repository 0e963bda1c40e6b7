"""Reference log-probs and preference optimisation."""
