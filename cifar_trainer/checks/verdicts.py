"""What `check training` reports: checks, figures by layer, and range tests."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of a recipe.

    Attributes:
        name: such as "loss at the first step".
        passed: whether the number is as expected.
        measured: the number; None if the check has no number, or did not apply.
        expected: the expected number, in words.
        message: what was measured; if the check failed, what to do.
        source: where the check comes from.
    """

    name: str
    passed: bool
    measured: float | None
    expected: str
    message: str
    source: str


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One trained layer.

    Attributes:
        name: the layer's.
        update_ratio: norm of one step's change of the kernel, divided by the kernel's norm; None without a
            kernel.
        dead: share of a ReLU's units that are zero for all images at the start; None for other activations.
    """

    name: str
    update_ratio: float | None
    dead: float | None


@dataclasses.dataclass(frozen=True)
class RateRange:
    """A learning-rate range test of one seed.

    Attributes:
        seed: determines the weights and the image order.
        rates: learning rate of each step, rising.
        losses: smoothed loss after each step; ends before the first loss that is not finite.
        highest: the highest rate before the loss diverges.
    """

    seed: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    highest: float
