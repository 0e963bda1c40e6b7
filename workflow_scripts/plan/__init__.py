"""What follows from a study: pure functions of it and of a policy, a seed, a benchmark. No Snakemake, no torch."""
