"""Training: the compiled loop, its output files, and resuming."""
