"""The model card: a readable manifest.json, with metadata for the Hugging Face Hub."""

import json
from collections.abc import Sequence

from cifar_trainer.artefacts.gate import BATCH_SIZES
from cifar_trainer.artefacts.manifest import Accuracy, Data, Export, Manifest
from cifar_trainer.data import DATASETS
from cifar_trainer.errors import counted

CARD_FILE = "model_card.md"

#: How images of other sizes are treated, by mode of `images.RESIZES`.
_RESIZED = {
    "stretch": "stretched to {size}, whatever their proportions",
    "crop": "cropped to the centre and resized to {size}; the rest is ignored",
    "fit": "resized to fit into {size}, with white borders",
}


def format_card(manifest: Manifest) -> str:
    """The model card: Markdown with YAML metadata."""
    run, data = manifest.run, manifest.data
    _, height, width, channels = manifest.input.shape
    classes = ", ".join(f"{i} {name}" for i, name in enumerate(manifest.classes))
    return f"""{_metadata(manifest)}
# {run.name}

A classifier of {height}×{width} {"colour" if channels == 3 else "greyscale"} images into \
{len(manifest.classes)} classes, trained on {data.title}
by cifar-trainer {manifest.versions["cifar-trainer"]}.

## Accuracy

{_describe_accuracy(manifest.accuracy)}

{_artefact_table(manifest.artefacts)}

Each artefact was loaded in a clean process by its own runtime and compared with the Keras
model, image by image, at batch sizes {" and ".join(map(str, BATCH_SIZES))}, \
on {manifest.artefacts[0].proof.images:,} images.

## Input and output

- Input `images`: uint8 `[N, {height}, {width}, {channels}]`, \
{"RGB" if channels == 3 else "greyscale"}, 0 to 255, as decoded. The model scales them itself.
- Outputs: `logits` and `probabilities`, float32 `[N, {len(manifest.classes)}]`; `class_id`, int64 `[N]`. The
  SavedModel also gives `class_name`, and takes PNG or JPEG files through its signature `serving_bytes`.
- Classes, by `class_id`: {classes}.
- `probabilities` is softmax(`logits` / {manifest.temperature:.4g})\
{", not calibrated" if manifest.temperature == 1 else ", calibrated on held-out images"}.

## Sets of classes

{_describe_coverage(manifest)}

## Training

| | |
| --- | --- |
| recipe | {run.recipe}, {manifest.parameters:,} parameters |
| training | {counted(run.epochs, "epoch")}, batch {run.batch_size}, \
learning rate {run.learning_rate:g}, seed {run.seed}, {run.precision}\
{"" if run.limit is None else f", only {run.limit:,} training images"} |
| weights, SHA-256 | `{run.weights_sha256}` |
| data | {_describe_data(data)} |
| training split, fingerprint | `{data.train_fingerprint}` |
| test split, fingerprint | `{data.test_fingerprint}` |
| versions | {", ".join(f"{name} {version}" for name, version in manifest.versions.items())} |

## Limits

{_limits(manifest)}
"""


def _metadata(manifest: Manifest) -> str:
    """YAML for the Hub; JSON strings are valid YAML."""
    spec = DATASETS.get(manifest.data.name) if manifest.data.verified else None
    dataset = spec.hugging_face if spec is not None else ""
    lines = [
        "---",
        "# Choose a license before you publish this model.",
        "license: unknown",
        "library_name: keras",
        "pipeline_tag: image-classification",
        "tags: [cifar-trainer]",
        *(["datasets:", f"- {dataset}"] if dataset else []),
    ]
    accuracy = manifest.accuracy
    if accuracy.split != "train":
        lines += [
            "model-index:",
            f"- name: {json.dumps(manifest.run.name)}",
            "  results:",
            "  - task: {type: image-classification}",
            "    dataset:",
            f"      name: {json.dumps(manifest.data.title)}",
            f"      type: {json.dumps(dataset or manifest.data.name)}",
            f"      split: {'test' if accuracy.split == 'test' else 'train (held-out part)'}",
            "    metrics:",
            f"    - {{type: accuracy, value: {accuracy.value:.4f}}}",
        ]
    return "\n".join([*lines, "---", ""])


def _describe_accuracy(accuracy: Accuracy) -> str:
    figure = (
        f"{accuracy.value:.2%} (95 % interval {accuracy.low:.2%} to {accuracy.high:.2%}) "
        f"on {accuracy.images:,}"
    )
    match accuracy.split:
        case "test":
            return (
                f"Accuracy {figure} images of the test split. Training reported this accuracy after each "
                "epoch, but did not use it to choose anything."
            )
        case "holdout" if accuracy.selected_on:
            return (
                f"Accuracy {figure} held-out training images. They also selected the epoch of the "
                "weights, so the accuracy on new images may be slightly lower. The test split was not used."
            )
        case "holdout":
            return f"Accuracy {figure} held-out training images. The test split was not used."
    return (
        "**The accuracy on new images is unknown.** The model was measured only on images that it was "
        f"trained on: {figure} of them. Measure it on new images with `cifar-trainer evaluate`."
    )


def _describe_coverage(manifest: Manifest) -> str:
    coverage = manifest.coverage
    if coverage is None or not coverage.thresholds:
        return "There are no thresholds for `--coverage`: no training images were held out and evaluated."
    each = ", also for each class" if coverage.by_class else ""
    selected = " They also selected the epoch." if manifest.accuracy.selected_on else ""
    lines = [
        "The classes whose softmax(`logits`) reaches the thresholds in `manifest.json` form a set that has",
        f"the right class with the promised coverage{each}. An empty set means unknown. The thresholds are",
        f"from {coverage.images:,} held-out training images.{selected}",
        "",
    ]
    for row in coverage.measured:
        low, high = row["interval"]
        lines.append(
            f"- {row['coverage']:.0%} promised: {row['measured']:.2%} of the sets of test images have the "
            f"right class (95 % interval {low:.2%} to {high:.2%}); mean size {row['mean_size']:.2f}, "
            f"{row['unknown']:.1%} unknown"
        )
    return "\n".join(lines).rstrip()


def _artefact_table(artefacts: Sequence[Export]) -> str:
    rows = [
        "| artefact | bytes | largest difference of a logit | same top class | accuracy | SHA-256 |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    rows += [
        f"| `{export.path}` | {export.bytes:,} | {export.max_abs_difference:.2g} "
        f"| {export.agreement:.2%} | {export.proof.accuracy:.2%} | `{export.sha256}` |"
        for export in artefacts
    ]
    return "\n".join(rows)


def _describe_data(data: Data) -> str:
    match data.verified_by, data.verified:
        case "archive", _:
            return f"{data.title}, from the published archive (checked by its SHA-256)"
        case _, True:
            return f"{data.title}, every image and label as published (checked by their fingerprints)"
    spec = DATASETS.get(data.name)
    if spec is not None and spec.draw is not None:
        return f"{data.title}, drawn by cifar-trainer"
    if spec is not None:
        return f"{data.title}; not verified as the published data set"
    return f"{data.title}, the user's own data set"


def _limits(manifest: Manifest) -> str:
    data, accuracy = manifest.data, manifest.accuracy
    _, height, width, _ = manifest.input.shape
    resize = "stretch" if manifest.preprocessing is None else manifest.preprocessing.resize
    resized = _RESIZED[resize].format(size=f"{height}×{width}")
    limits = [
        f"It always answers with one of its {len(manifest.classes)} classes, whatever the image shows. "
        "A high probability does not mean that the image shows any of them."
        + (" Unfamiliar images are not detected." if manifest.unfamiliar is None else ""),
        f"Images of other sizes are {resized}. Small details are lost.",
        "Do not use it for decisions about people, or where a wrong answer could do harm.",
    ]
    if accuracy.split != "train":
        limits.insert(
            0,
            f"It is wrong for {1 - accuracy.value:.0%} of images like those that it was measured on, "
            "and may be wrong more often for other images.",
        )
    spec = DATASETS.get(data.name)
    if spec is not None and spec.limits and (data.verified or spec.draw is not None):
        limits.insert(0, spec.limits)
    return "\n".join(f"- {limit}" for limit in limits)
