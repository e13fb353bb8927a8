"""Train, evaluate and export a CIFAR-10 classifier: fast, exact, and honest about what it did."""

__version__ = "0.1.0"
