"""Programs that a policy wrote: read from its answers, run in a sandbox with their tests, and counted as pass@k."""
