"""Artefacts that take a picture as it is, each proved against the Keras model before anyone can use it."""
