"""Training: the compiled loop, what it writes, and how it goes on after a stop."""
