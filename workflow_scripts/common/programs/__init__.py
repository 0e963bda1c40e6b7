"""Programs that a policy wrote: read from its answers, and run with their tests in a sandbox."""
