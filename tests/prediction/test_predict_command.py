"""`predict` as users call it (rows 59 to 64 of the faults).

Most claims are about the command and not about the model, and are tested with an
artefact whose runtime starts quickly.
"""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import encode, png
from PIL import Image

from cifar_trainer.errors import RunError

RunCli = Callable[..., subprocess.CompletedProcess[str]]
Predict = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def model(artefacts: dict[str, Path]) -> Path:
    """An artefact that needs no TensorFlow."""
    quick = [artefacts[name] for name in ("onnx", "litert") if name in artefacts]
    return quick[0] if quick else pytest.skip("neither onnxruntime nor ai-edge-litert is installed")


@pytest.fixture
def predict(run_cli: RunCli, model: Path) -> Predict:
    return lambda *arguments, **options: run_cli(["predict", "--model", model, *arguments], **options)


@pytest.fixture
def pictures(tmp_path: Path, data_dir: Path) -> Path:
    """A folder of three pictures: PNG, JPEG and one below."""
    images = np.load(data_dir / "synthetic" / "test_images.npy")
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(images[0]).save(folder / "a.png")
    Image.fromarray(images[1]).resize((200, 100)).save(folder / "b.jpg")
    Image.fromarray(images[2]).save(folder / "more" / "c.webp", lossless=True)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def failed(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_folder_gives_a_line_for_each_picture_below_it(predict: Predict, pictures: Path) -> None:
    done = predict(pictures, "--top", 2)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        str(pictures / name) for name in ("a.png", "b.jpg", "more/c.webp")
    ]
    assert all(line.count("%") == 2 for line in lines)


def test_the_json_has_these_keys(predict: Predict, model: Path, pictures: Path) -> None:
    (pictures / "empty.png").write_bytes(b"")
    done = predict(pictures / "b.jpg", pictures / "empty.png", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert list(result) == ["model", "format", "predictions", "errors"]
    assert result["model"] == str(model)
    assert result["format"] in ("onnx", "litert")
    [answer] = result["predictions"]
    assert list(answer) == ["image", "format", "mode", "width", "height", "top"]
    assert (answer["format"], answer["mode"], answer["width"], answer["height"]) == ("JPEG", "RGB", 200, 100)
    assert [list(guess) for guess in answer["top"]] == [["class", "class_id", "probability"]] * 3
    chances = [guess["probability"] for guess in answer["top"]]
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) <= 1 + 1e-5
    [error] = result["errors"]
    assert list(error) == ["image", "error"]
    assert error["image"] == str(pictures / "empty.png")


def test_what_cannot_be_read_is_named_and_the_others_are_done(predict: Predict, pictures: Path) -> None:
    whole = (pictures / "a.png").read_bytes()
    bad = {
        "empty.png": (b"", "it is empty"),
        "cut.png": (whole[: len(whole) // 2], "a PNG"),
        "cut.jpg": ((pictures / "b.jpg").read_bytes()[:400], "a JPEG"),
        "page.jpg": (b"<html>404</html>", "no picture"),
        "scan.tiff": (encode(Image.new("RGB", (8, 8)), "TIFF"), "it is a TIFF"),
        "huge.png": (png(100_000, 100_000, 8, 2), "at most 64,000,000"),
    }
    for name, (content, _) in bad.items():
        (pictures / name).write_bytes(content)
    absent = pictures / "absent.png"
    done = predict(pictures / "a.png", *(pictures / name for name in bad), absent, pictures / "b.jpg")
    message = failed(done, 1)
    assert f"{len(bad) + 1} of {len(bad) + 3} could not be read; the others are done." in message
    for name, (_, reason) in bad.items():
        [line] = [line for line in message.splitlines() if str(pictures / name) in line]
        assert reason in line
    assert f"{absent}: it cannot be read: No such file or directory" in message
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [
        str(pictures / "a.png"), str(pictures / "b.jpg"),
    ]  # fmt: skip


def test_a_misnamed_picture_is_classified_and_its_true_format_said(predict: Predict, pictures: Path) -> None:
    expected = predict(pictures / "a.png").stdout.split(": ")[1].strip()
    shutil.copy(pictures / "a.png", pictures / "a.jpg")
    done = predict(pictures / "a.jpg")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{pictures / 'a.jpg'}: {expected}  (it is a PNG, whatever its name says)"


def test_standard_input_and_a_fifo_give_what_the_file_gives(
    predict: Predict, pictures: Path, tmp_path: Path
) -> None:
    content = (pictures / "b.jpg").read_bytes()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(content))
    writer.start()
    done = predict(pictures / "b.jpg", "-", fifo, stdin=None, input=content, text=False, capture_output=True)
    writer.join()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(pictures / "b.jpg"), "-", str(fifo)]
    assert len({line.split(": ")[1] for line in lines}) == 1


def test_nothing_on_standard_input_is_an_empty_picture(predict: Predict) -> None:
    assert "-: it is empty" in failed(predict("-"), 1)


def test_a_folder_without_pictures_and_a_name_too_long_are_refused(predict: Predict, tmp_path: Path) -> None:
    message = failed(predict(tmp_path, "a" * 300), 1)
    assert f"{tmp_path}: it is a folder without pictures" in message
    assert f"{'a' * 300}: it cannot be read: File name too long" in message


def test_a_name_that_is_not_utf8_works_and_does_not_steer_the_terminal(
    predict: Predict, pictures: Path
) -> None:
    odd = os.fsencode(pictures) + b"/\xff\x1b[31m.png"
    shutil.copy(os.fsencode(pictures / "a.png"), odd)
    done = predict(os.fsdecode(odd), env={"LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    assert r"\udcff\x1b[31m.png: " in done.stdout
    assert "\x1b" not in done.stdout


def test_run_and_model_together_are_refused(predict: Predict, pictures: Path, tmp_path: Path) -> None:
    message = failed(predict(pictures, "--run", tmp_path), 2)
    assert f"--run {tmp_path}" in message
    assert "--model" in message


@pytest.mark.parametrize("arguments", [[], ["--top", 0, "a.png"], ["--top", 11, "a.png"]])
def test_wrong_arguments_are_refused(predict: Predict, arguments: list[object]) -> None:
    assert failed(predict(*arguments), 2)


def test_what_is_no_artefact_is_refused(run_cli: RunCli, model: Path, pictures: Path, tmp_path: Path) -> None:
    broken = tmp_path / model.name
    broken.write_bytes(model.read_bytes()[:10_000])
    assert "is not a whole" in failed(run_cli(["predict", "--model", broken, pictures]), 1)
    absent = tmp_path / "absent.onnx"
    assert "cannot be read" in failed(run_cli(["predict", "--model", absent, pictures]), 1)
    assert "without saved_model.pb" in failed(run_cli(["predict", "--model", pictures, pictures]), 1)
    text = pictures / "notes.txt"
    assert "none of the artefacts" in failed(run_cli(["predict", "--model", text, pictures]), 1)


def test_a_run_without_a_model_says_what_is_there(run_cli: RunCli, learned_run: Path, tmp_path: Path) -> None:
    shutil.copy(learned_run / "config.json", tmp_path)
    message = failed(run_cli(["predict", "--run", tmp_path, "-"]), 1)
    assert "no model.keras (it holds config.json)" in message


def test_a_keras_file_with_code_is_refused_and_the_code_does_not_run(
    run_cli: RunCli, pictures: Path, tmp_path: Path
) -> None:
    import keras

    ran = tmp_path / "ran"

    # Keras stores a lambda's bytecode, with the constants in it.
    hostile = eval(f"lambda images: [open({str(ran)!r}, 'w').close(), images][1]")
    keras_model = keras.Sequential(
        [
            keras.Input((32, 32, 3), dtype="uint8"),
            keras.layers.Lambda(hostile, output_shape=(32, 32, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    keras_model.save(tmp_path / "hostile.keras")
    # It does run where safe_mode is off: what is tested is not an idle threat.
    ran.unlink(missing_ok=True)
    loaded = keras.models.load_model(tmp_path / "hostile.keras", safe_mode=False)
    loaded.predict_on_batch(np.zeros((1, 32, 32, 3), np.uint8))
    assert ran.exists()
    ran.unlink()
    done = run_cli(["predict", "--model", tmp_path / "hostile.keras", pictures])
    message = failed(done, 1)
    assert f"{tmp_path / 'hostile.keras'} holds Python code (a Lambda layer)" in message
    assert done.stdout == ""
    assert not ran.exists()


def test_a_keras_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    import keras

    from cifar_trainer.prediction.keras_model import open_artefact

    def saved(shape: tuple[int, ...], outputs: Callable[[Any], Any]) -> Path:
        images = keras.Input(shape, dtype="uint8")
        keras.Model(images, outputs(keras.layers.Flatten()(images))).save(tmp_path / "other.keras")
        return tmp_path / "other.keras"

    dense = keras.layers.Dense
    for outputs in (dense(20), lambda x: {"other": dense(10)(x)}, lambda x: [dense(10)(x), dense(10)(x)]):
        with pytest.raises(RunError, match=r"gives outputs of shape .* expected logits"):
            open_artefact(saved((32, 32, 3), outputs))
    with pytest.raises(RunError, match=r"takes an input of shape \(None, 28, 28\); expected"):
        open_artefact(saved((28, 28), dense(10)))
