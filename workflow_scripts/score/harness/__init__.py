"""Tasks of the lm-evaluation-harness: which there are, running them on a policy, and the scores of their items."""
