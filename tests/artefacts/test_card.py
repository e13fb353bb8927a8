"""The model card says what was measured and proved, and no more. Needs no TensorFlow."""

import dataclasses
from typing import Any

import pytest
import yaml

from cifar_trainer.artefacts.card import format_card
from cifar_trainer.artefacts.gate import Proof
from cifar_trainer.artefacts.manifest import (
    Accuracy,
    Data,
    Export,
    Manifest,
    Training,
    describe_input,
)
from cifar_trainer.conformal import Coverage
from cifar_trainer.images import Preprocessing

PROOF = Proof(1000, 1e-6, 1.0, 0.9, 0.9)
MANIFEST = Manifest(
    run=Training("run: 1", 10, "tutorial", 32, 0.001, 0, "float32", "test", None, "ab" * 32),
    data=Data("cifar10", "CIFAR-10", True, "12" * 32, "34" * 32, "content"),
    classes=("airplane", "bird"),
    parameters=122570,
    input=describe_input(Preprocessing((32, 32, 3))),
    preprocessing=Preprocessing((32, 32, 3)),
    temperature=1.0,
    accuracy=Accuracy("test", 5000, 0.9, 0.89, 0.91),
    artefacts=(Export("keras", "model.keras", 1000, "cd" * 32, 1e-6, 1.0, PROOF, {}),),
    versions={"cifar-trainer": "0.1.0"},
)


def card(**changes: Any) -> str:
    return " ".join(format_card(dataclasses.replace(MANIFEST, **changes)).split())


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (
            Accuracy("test", 5000, 0.9, 0.89, 0.91),
            "Accuracy 90.00% (95 % interval 89.00% to 91.00%) on 5,000 images of the test split.",
        ),
        (
            Accuracy("holdout", 5000, 0.9, 0.89, 0.91),
            "on 5,000 held-out training images. The test split was not used.",
        ),
        (
            Accuracy("holdout", 5000, 0.9, 0.89, 0.91, selected_on=True),
            "on 5,000 held-out training images. They also selected the epoch of the weights, "
            "so the accuracy on new images may be slightly lower.",
        ),
        (
            Accuracy("train", 5000, 0.9, 0.89, 0.91),
            "**The accuracy on new images is unknown.** The model was measured only on images that it was "
            "trained on: 90.00%",
        ),
    ],
)
def test_the_accuracy_is_called_by_the_images_that_it_was_measured_on(accuracy: Accuracy, said: str) -> None:
    assert said in card(accuracy=accuracy)


def test_an_accuracy_on_training_images_is_no_estimate_for_others() -> None:
    text = card(accuracy=Accuracy("train", 5000, 0.9, 0.89, 0.91))
    assert "held-out training images" not in text
    assert "set aside" not in text
    assert "It is wrong for" not in text
    assert "model-index" not in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Data("cifar10", "CIFAR-10", True, "", "", "content"), "every image and label as published"),
        (
            Data("svhn", "SVHN", True, "", "", "archive"),
            "SVHN, from the published archive (checked by its SHA-256)",
        ),
        (Data("svhn", "SVHN (not verified)", False, "", ""), "not verified as the published data set"),
        (Data("synthetic", "synthetic images", False, "", ""), "synthetic images, drawn by cifar-trainer"),
        (Data("pets", "pets", False, "", ""), "pets, the user's own data set"),
    ],
)
def test_the_data_are_called_what_their_record_proves(data: Data, said: str) -> None:
    assert said in card(data=data)


def test_a_published_data_set_from_its_archive_is_not_called_unknown() -> None:
    text = card(data=Data("svhn", "SVHN", True, "", "", "archive"))
    assert "not verified" not in text
    assert "not known" not in text


@pytest.mark.parametrize(
    ("resize", "said"),
    [("stretch", "stretched to 32×32"), ("crop", "cropped to the centre"), ("fit", "with white borders")],
)
def test_the_card_says_what_happens_to_images_of_other_sizes(resize: str, said: str) -> None:
    assert said in card(preprocessing=Preprocessing((32, 32, 3), resize))


def test_the_head_of_the_card_is_metadata_for_the_hub_with_the_measured_accuracy() -> None:
    _, head, _ = format_card(MANIFEST).split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "unknown"
    assert metadata["library_name"] == "keras"
    assert metadata["pipeline_tag"] == "image-classification"
    assert metadata["datasets"] == ["uoft-cs/cifar10"]
    (index,) = metadata["model-index"]
    (result,) = index["results"]
    assert index["name"] == "run: 1"
    assert result["dataset"] == {"name": "CIFAR-10", "type": "uoft-cs/cifar10", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9}]
    assert format_card(MANIFEST).startswith("---\n")


def test_the_card_says_the_measured_coverage_and_size_of_sets_or_that_there_are_none() -> None:
    assert "There are no thresholds for `--coverage`: no training images were held out" in card()
    measured = {
        "coverage": 0.9, "measured": 0.9012, "interval": (0.8952, 0.9069), "mean_size": 1.456,
        "unknown": 0.012,
    }  # fmt: skip
    text = card(coverage=Coverage(5000, True, {"90": (0.1, 0.2)}, (measured,)))
    assert "right class with the promised coverage, also for each class." in text
    assert "from 5,000 held-out training images." in text
    assert "- 90% promised: 90.12% of the sets" in text
    assert "(95 % interval 89.52% to 90.69%); mean size 1.46, 1.2% unknown" in text


def test_the_card_says_that_there_is_no_usable_threshold_for_unfamiliar_images() -> None:
    said = "Unfamiliar images are not detected."
    assert said in card()
    assert said not in card(unfamiliar={"energy": 1.0, "probability": 0.5})


def test_the_card_names_the_model_card_figures_of_each_artefact() -> None:
    assert f"| `model.keras` | 1,000 | 1e-06 | 100.00% | 90.00% | `{'cd' * 32}` |" in card()
