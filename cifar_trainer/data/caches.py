"""Finds data sets that other programs have downloaded."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def find_cached(patterns: Iterable[str]) -> Iterator[Path]:
    """Files and folders that may hold a data set; their content has to be verified.

    A pattern starts with the name of a program, which stands for the folders of its cache. The newest of
    several versions comes first. Skips caches that we cannot read, and broken links.
    """
    home, variables = Path.home(), os.environ
    hugging_face = Path(variables.get("HF_HOME") or home / ".cache" / "huggingface")
    folders = {
        "KERAS": [Path(variables.get("KERAS_HOME") or home / ".keras") / "datasets"],
        # Its data sets are in the folder that a program names, which is this one in the tutorials.
        "TORCHVISION": [Path("data"), home / "data"],
        "HUGGING_FACE": [Path(variables.get("HF_HUB_CACHE") or hugging_face / "hub")],
        "TFDS": [Path(variables.get("TFDS_DATA_DIR") or home / "tensorflow_datasets")],
    }
    for pattern in patterns:
        program, _, entry = pattern.partition("/")
        for folder in folders[program]:
            readable = [path for path in folder.glob(entry) if os.access(path, os.R_OK)]
            yield from sorted(readable, key=lambda path: path.stat().st_mtime, reverse=True)
