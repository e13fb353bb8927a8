"""The accuracy without images that nearly copy those that the run was trained on."""

from collections.abc import Callable

import numpy as np

from cifar_trainer import files
from cifar_trainer.data.check_record import FOLDER, NAME
from cifar_trainer.evaluation.report import leave_out_near_duplicates
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.metrics import wilson_interval


def test_images_with_a_copy_among_the_trained_ones_are_left_out(
    make_subject: Callable[..., Subject], small_logits: tuple[np.ndarray, np.ndarray]
) -> None:
    subject = make_subject(*small_logits)
    assert leave_out_near_duplicates(subject) is None
    folder = subject.dataset.folder / FOLDER
    record = {
        "train": subject.dataset.train.fingerprint,
        "test": subject.dataset.test.fingerprint,
        # The second group has no training image.
        "groups": [[["train", 0], ["test", 3], ["test", 9]], [["test", 4], ["test", 5]]],
        "test_label_checks": 1,
    }
    folder.mkdir(parents=True)
    files.write_json(folder / NAME, record)
    rest = leave_out_near_duplicates(subject)
    assert rest is not None
    kept = ~np.isin(np.arange(60), [3, 9])
    correct = int((small_logits[0].argmax(axis=1) == small_logits[1])[kept].sum())
    assert (rest.near_duplicates, rest.images, rest.accuracy) == (2, 58, correct / 58)
    assert rest.interval == wilson_interval(correct, 58)
    files.write_json(folder / NAME, {**record, "test": "of other images"})
    assert leave_out_near_duplicates(subject) is None
