"""The order of the images, and every other seed, as pure functions of (seed, epoch, step).

Nothing here has state: a run that goes on in the middle of an epoch draws what an
uninterrupted one would have drawn.
"""

import numpy as np

#: Names the independent streams that grow from one seed.
_ORDER, _LAYERS, _AUGMENT = 1, 2, 3


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of `count` images in an epoch (0-based), as int64 [count]."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _ORDER, epoch])))
    return generator.permutation(count)


def layer_seeds(seed: int, count: int) -> np.ndarray:
    """One seed for each of `count` random layers, as uint32 [count]; the step is their counter."""
    return np.random.SeedSequence([seed, _LAYERS]).generate_state(count, np.uint32)


def augmentation_seed(seed: int) -> int:
    """The first word of the augmentation's seed, a non-negative int32; the step is the second."""
    return int(np.random.SeedSequence([seed, _AUGMENT]).generate_state(1, np.uint32)[0] >> 1)
