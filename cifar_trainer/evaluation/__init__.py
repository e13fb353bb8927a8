"""What a trained network is worth: figures, pictures, a page, and comparisons between runs."""
