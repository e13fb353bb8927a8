"""Sweeps: Optuna chooses settings, workers train them, validation accuracy decides."""
