"""history.csv: one row an epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_trainer import files

#: The columns, in order. The last four stay empty without an NVIDIA GPU.
COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "images_per_second",
    "seconds",
    "gpu_utilization",
    "gpu_memory_mib",
    "power_watts",
    "energy_joules",
)


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file by a header and `rows`; None becomes an empty field.

    Raises:
        OSError: it could not be written; the old file is untouched.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, buffer.getvalue())
