"""How fast: the latency of a trained network, and the throughput of training one."""
