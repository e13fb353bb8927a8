"""The model card: what a model is, how good, and what it is not for (Mitchell et al. 2019)."""

from collections.abc import Mapping
from typing import Any


def format_model_card(manifest: Mapping[str, Any]) -> str:
    """The card of a manifest, as Markdown."""
    run, data, accuracy = manifest["run"], manifest["data"], manifest["accuracy"]
    compared, temperature = manifest["artefacts"][0]["proof"]["images"], manifest["temperature"]
    classes = ", ".join(f"{i} {name}" for i, name in enumerate(manifest["classes"]))
    return f"""# {run["name"]}

A classifier of 32×32 colour pictures into ten classes, trained on {data["title"]}
by cifar-trainer {manifest["versions"]["cifar-trainer"]}.

## Figures

{_accuracy_sentence(accuracy)}

{_artefact_table(manifest["artefacts"])}

Each artefact was loaded in a clean process by its own runtime and compared with the Keras
model, picture by picture, at batch sizes 1 and 37, on {compared:,} pictures.

## Input and output

- Input `images`: uint8 `[N, 32, 32, 3]`, RGB, 0 to 255, as decoded. Scaling is inside; do not scale.
- Outputs: `logits` and `probabilities`, float32 `[N, 10]`; `class_id`, `[N]`; the SavedModel also
  gives `class_name` and takes encoded PNG or JPEG by the signature `serving_bytes`.
- Classes, by `class_id`: {classes}.
- `probabilities` is softmax(`logits` / {temperature:.4g}){_temperature_note(temperature)}.

## How it was made

| | |
| --- | --- |
| recipe | {run["recipe"]}, {manifest["parameters"]:,} parameters |
| training | {run["epochs"]} epochs, batch {run["batch_size"]}, learning rate {run["learning_rate"]:g}, \
seed {run["seed"]}, {run["precision"]}{_limit_note(run["limit"])} |
| weights, SHA-256 | `{run["weights_sha256"]}` |
| training split, fingerprint | `{data["train_fingerprint"]}` |
| test split, fingerprint | `{data["test_fingerprint"]}` |
| versions | {", ".join(f"{name} {version}" for name, version in manifest["versions"].items())} |

## Limits

{_limits(data, accuracy)}
"""


def _accuracy_sentence(accuracy: Mapping[str, Any]) -> str:
    where = (
        "of the test split, which training watched after each epoch and never used to choose anything"
        if accuracy["split"] == "test"
        else "that were set aside from the training split; the test split was not used"
    )
    return (
        f"Accuracy {accuracy['value']:.2%} (95 % interval {accuracy['low']:.2%} to {accuracy['high']:.2%}) "
        f"on {accuracy['images']:,} pictures {where}."
    )


def _artefact_table(artefacts: list[Mapping[str, Any]]) -> str:
    rows = [
        "| artefact | bytes | largest difference of a logit | same top class | accuracy there | SHA-256 |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for entry in artefacts:
        rows.append(
            f"| `{entry['path']}` | {entry['bytes']:,} | {entry['max_abs_difference']:.2g} "
            f"| {entry['agreement']:.2%} | {entry['proof']['accuracy']:.2%} | `{entry['sha256']}` |"
        )
    return "\n".join(rows)


def _temperature_note(temperature: float) -> str:
    return "; nothing was calibrated" if temperature == 1 else ", calibrated on pictures that were set aside"


def _limit_note(limit: int | None) -> str:
    return "" if limit is None else f", the first {limit:,} training images only"


def _limits(data: Mapping[str, Any], accuracy: Mapping[str, Any]) -> str:
    limits = [
        f"- It is wrong about {1 - accuracy['value']:.0%} of pictures like those that it was measured on, "
        "and may be more often about others.",
        "- It always answers with one of its ten classes, whatever the picture shows, and a high "
        "probability is no sign that the picture shows any of them.",
        "- Pictures are reduced to 32×32; what is small in them is lost.",
        "- Not for decisions about people, nor where a wrong answer does harm.",
    ]
    if data["name"] == "synthetic":
        limits.insert(0, "- Trained on drawn pictures: it knows nothing about photographs.")
    elif data["verified"]:
        limits.insert(
            0,
            "- CIFAR-10's pictures were collected from the web before 2009 and labelled by students "
            "(Krizhevsky 2009); about 0.5 % of the test labels are wrong (Northcutt et al. 2021).",
        )
    else:
        limits.insert(0, "- The data is not CIFAR-10, though it has its shape; what it shows is not known.")
    return "\n".join(limits)
