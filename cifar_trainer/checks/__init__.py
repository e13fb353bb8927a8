"""Checks of data and training: likely mistakes, with pictures and an exit code."""
