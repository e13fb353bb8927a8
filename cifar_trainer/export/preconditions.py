"""What must be so before an export begins. Imports no TensorFlow."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from cifar_trainer.errors import CifarTrainerError, RunError
from cifar_trainer.export.formats import Format


def check_targets(formats: Sequence[Format], output: Path, replace: bool) -> None:
    """Raise RunError where an artefact stands already and may not be replaced."""
    taken = [str(output / form.file_name) for form in formats if os.path.lexists(output / form.file_name)]
    if taken and not replace:
        raise RunError(
            f"{', '.join(taken)} exists already. Replace it with --force, or choose another --output."
        )


def check_packages(formats: Sequence[Format]) -> None:
    """Raise CifarTrainerError where a format needs packages that are not installed."""
    for form in formats:
        missing = [name for name in form.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise CifarTrainerError(
                f"--format {form.name} needs {', '.join(missing)}, which cannot be imported. "
                f"Install what it needs with: pip install 'cifar-trainer[{form.extra}]'"
            )
