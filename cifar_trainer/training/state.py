"""Between a checkpoint's arrays and the variables of a model and its optimizer."""

from collections.abc import Sequence

import keras
import numpy as np

from cifar_trainer.errors import CheckpointError


def read_variables(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """The values of `variables`, copied to the host."""
    return [np.asarray(variable.numpy()) for variable in variables]


def assign_variables(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Set `variables` to `values`, one by one.

    Raises:
        CheckpointError: their number, a shape or a dtype is not the variables'; nothing
            is assigned then.
    """
    expected = [(tuple(v.shape), keras.backend.standardize_dtype(v.dtype)) for v in variables]
    received = [(value.shape, str(value.dtype)) for value in values]
    if expected != received:
        raise CheckpointError(
            f"The checkpoint holds {len(received)} arrays that do not fit the {len(expected)} variables of "
            "this model and optimizer; it belongs to another recipe or version."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
