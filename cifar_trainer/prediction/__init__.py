"""Using a model: pictures in, class names out, the same from every kind of artefact."""
