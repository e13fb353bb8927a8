"""Checks of data and of training: what is probably wrong, with pictures and an exit code."""
