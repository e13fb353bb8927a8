"""Find data sets that other programs have downloaded."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def find_cached(patterns: Iterable[str]) -> Iterator[Path]:
    """Find files and folders that may contain a data set; the caller has to verify their content.

    A pattern is the name of a program, for its cache folders, then a glob. Newer versions come first. Broken
    links and caches that cannot be read are skipped.
    """
    home, variables = Path.home(), os.environ
    hugging_face = Path(variables.get("HF_HOME") or home / ".cache" / "huggingface")
    folders = {
        "KERAS": [Path(variables.get("KERAS_HOME") or home / ".keras") / "datasets"],
        # torchvision has no cache folder; its tutorials use `data`.
        "TORCHVISION": [Path("data"), home / "data"],
        "HUGGING_FACE": [Path(variables.get("HF_HUB_CACHE") or hugging_face / "hub")],
        "TFDS": [Path(variables.get("TFDS_DATA_DIR") or home / "tensorflow_datasets")],
    }
    for pattern in patterns:
        program, _, entry = pattern.partition("/")
        for folder in folders[program]:
            readable = [path for path in folder.glob(entry) if os.access(path, os.R_OK)]
            yield from sorted(readable, key=lambda path: path.stat().st_mtime, reverse=True)
