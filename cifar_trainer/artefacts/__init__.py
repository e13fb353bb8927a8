"""Artefacts: one module a format, each with its `write` and its `open`; and the check that each passes."""
