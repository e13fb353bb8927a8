"""report.html of `check data`: near-duplicates, suspect labels and other findings, with pictures."""

from collections.abc import Sequence
from pathlib import Path

from cifar_trainer import pages
from cifar_trainer.checks.data_report import DataCheck, Group, Image, Suspect, file_of
from cifar_trainer.checks.findings import Odd, splits_of
from cifar_trainer.checks.folds import FOLDS, SEED
from cifar_trainer.data.check_record import CheckRecord
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.errors import printable
from cifar_trainer.images import encode_png
from cifar_trainer.settings import Settings

#: Maximum numbers on the page: groups, images per group, suspects, and odd images of each kind.
GROUPS, MEMBERS, SUSPECTS, ODD = 500, 8, 300, 100
#: Headings of odd images, by the kind of the finding.
_HEADINGS = {"one_colour": "Nearly one colour", "size": "Unusual size or shape"}


def render_page(
    dataset: Dataset,
    result: DataCheck,
    record: CheckRecord,
    groups: Sequence[Group],
    suspects: Sequence[Suspect],
    odd: Odd,
    config: Settings,
    run: str | Path | None,
) -> str:
    """The page's HTML.

    Args:
        dataset: the data.
        result, record: the numbers, and the record of the check.
        groups, suspects: most similar and least probable first.
        odd: images of one colour or of unusual size.
        config: settings of the networks that find suspect labels.
        run: the run whose features were compared; None if those networks provided them.
    """

    def shown(image: Image) -> dict[str, str]:
        split = splits_of(dataset)[image.split]
        return {
            "picture": pages.data_uri(encode_png(split.images[image.index])),
            "split": image.split,
            "name": printable(file_of(dataset, image)) or f"{image.split} {image.index}",
            "label": printable(dataset.classes[split.labels[image.index]]),
            "size": "" if split.sizes is None else "{}×{}".format(*split.sizes[image.index]),
        }

    # Copies across splits matter most, and of a large group its test images.
    first = sorted(groups, key=lambda group: not group.is_across)[:GROUPS]
    images = {
        kind: [Image(name, int(index)) for name, indices in by_split.items() for index in indices]
        for kind, by_split in odd.items()
    }
    return pages.render(
        "cifar_trainer.checks",
        "data.html.j2",
        {},
        title=dataset.title,
        result=result,
        groups=[
            {
                "images": [
                    shown(image)
                    for image in sorted(group.images, key=lambda image: image.split != "test")[:MEMBERS]
                ],
                "more": len(group.images) - MEMBERS,
                "similarity": group.similarity,
                "labels_differ": len({_label(dataset, image) for image in group.images}) > 1,
            }
            for group in first
        ],
        suspects=[
            {
                **shown(suspect.image),
                "suggested": printable(dataset.classes[suspect.suggested]),
                "score": suspect.score,
            }
            for suspect in suspects[:SUSPECTS]
        ],
        odd=[
            (kind, _HEADINGS[kind], len(found), [shown(image) for image in found[:ODD]])
            for kind, found in images.items()
        ],
        colour_count=len(images["one_colour"]),
        provenance=[
            ("data", f"{dataset.title}, {dataset.folder}"),
            ("training split", dataset.train.fingerprint),
            ("test split", dataset.test.fingerprint),
            ("networks for labels", f"{config.recipe}, {FOLDS} folds, {config.epochs} epochs, seed {SEED}"),
            ("features compared", "from the last of these networks" if run is None else f"from {run}"),
            ("checks of test labels", str(record.test_label_checks)),
        ],
    )


def _label(dataset: Dataset, image: Image) -> int:
    return int(splits_of(dataset)[image.split].labels[image.index])
