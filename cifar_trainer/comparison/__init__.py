"""Runs beside each other: what lies in a folder, and which of several is better."""
