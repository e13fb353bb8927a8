"""Exported artefacts: one module per format, and the gate that verifies them."""
