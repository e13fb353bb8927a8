"""Evaluating a run: its numbers, the figures, and the page that shows them."""
