"""examples/: each asks an exported artefact, without this package, and says what the artefact says."""

import dataclasses
import http.server
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from command_line import load_script, python
from PIL import Image

from cifar_trainer.artefacts.gate import KINDS
from cifar_trainer.images import RESIZES, Preprocessing

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CLIENT = EXAMPLES / "serving" / "client.py"

#: Runs a script in this interpreter, and ends with 99 where it has imported a module that it should not.
WATCH = """
import runpy, sys
banned, sys.argv = set(sys.argv[1].split()), sys.argv[2:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    if found := banned & set(sys.modules):
        print("imported:", *found, file=sys.stderr)
        sys.exit(99)
"""


def run(*command: object, banned: str = "cifar_trainer") -> subprocess.CompletedProcess[str]:
    """Run a script with these arguments; it fails if it imports a module in `banned`."""
    interpreter = python(own_process=banned != "cifar_trainer")
    watched = [interpreter, "-c", WATCH, banned, *map(str, command)]
    return subprocess.run(watched, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def pictures(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two PNGs as the model takes them, and a JPEG of another size."""
    folder = tmp_path_factory.mktemp("pictures")
    images = np.load(data_dir / "synthetic" / "test_images.npy", mmap_mode="r")[:3]
    for i in range(2):
        Image.fromarray(images[i]).save(folder / f"{i}.png")
    Image.fromarray(images[2]).resize((90, 60)).save(folder / "2.jpg", quality=95)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(artefacts: dict[str, Path], pictures: list[Path]) -> list[tuple[str, float]]:
    """Each picture's class and its probability, by the SavedModel itself."""
    loaded = tf.saved_model.load(str(artefacts["saved_model"]))
    contents = tf.constant([path.read_bytes() for path in pictures])
    outputs = {name: value.numpy() for name, value in loaded.signatures["serving_bytes"](contents).items()}
    names = [name.decode() for name in outputs["class_name"]]
    assert len(set(names)) > 1, "pictures of one class would hide a mix-up"
    return list(zip(names, outputs["probabilities"].max(axis=1).tolist(), strict=True))


@pytest.fixture(scope="module")
def server(artefacts: dict[str, Path]) -> Iterator[Any]:
    pytest.importorskip("grpc")
    pytest.importorskip("tensorflow_serving")
    from serving_stand_in import StandIn

    with StandIn(artefacts["saved_model"]) as running:
        yield running


@pytest.fixture(scope="module")
def client() -> ModuleType:
    return load_script(CLIENT)


@pytest.fixture(scope="module")
def nobody() -> str:
    """HOST:PORT where no server listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def assert_one_line(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line


def test_rest_and_grpc_give_the_saved_models_classes_and_probabilities(
    server: Any, client: ModuleType, pictures: list[Path], expected: list[tuple[str, float]]
) -> None:
    contents = [path.read_bytes() for path in pictures]
    for answers in (
        client.ask_rest(server.url, "cifar10", contents),
        client.ask_grpc(server.address, "cifar10", contents),
    ):
        assert [name for name, _ in answers] == [name for name, _ in expected]
        for (_, share), (_, wanted) in zip(answers, expected, strict=True):
            assert share == pytest.approx(wanted, abs=1e-5)


def test_probabilities_that_grpc_packs_are_read_as_well(client: ModuleType) -> None:
    packed = tf.make_tensor_proto(np.array([[0.25, 0.75]], np.float32))
    assert packed.tensor_content
    assert client.floats(packed) == [0.25, 0.75]


@pytest.mark.parametrize("way", ["url", "grpc"])
def test_the_client_prints_a_line_for_each_picture_without_importing_the_rest(
    server: Any, pictures: list[Path], expected: list[tuple[str, float]], way: str
) -> None:
    """Over REST it needs Python alone; over gRPC TensorFlow's messages but not TensorFlow."""
    address, banned = {
        "url": (server.url, "cifar_trainer tensorflow numpy grpc"),
        "grpc": (server.address, "cifar_trainer tensorflow.python keras"),
    }[way]
    done = run(CLIENT, *pictures, f"--{way}", address, banned=banned)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [f"{path}: {name} {share:.1%}" for path, (name, share) in zip(pictures, expected, strict=True)]
    assert done.stdout.splitlines() == lines


@pytest.mark.parametrize("way", ["url", "grpc"])
def test_no_answer_is_one_line_and_exit_code_1(
    server: Any, nobody: str, pictures: list[Path], tmp_path: Path, way: str
) -> None:
    address, closed, silent, not_found = {
        "url": (server.url, f"http://{nobody}", f"{nobody} cannot be reached", "404: Servable not found"),
        "grpc": (server.address, nobody, f"{nobody} answered UNAVAILABLE", "NOT_FOUND: Servable not found"),
    }[way]
    assert_one_line(run(CLIENT, pictures[0], f"--{way}", closed), silent)
    assert_one_line(run(CLIENT, pictures[0], f"--{way}", address, "--model", "other"), not_found)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    refused = {"url": "answered 400", "grpc": "answered INVALID_ARGUMENT"}[way]
    assert_one_line(run(CLIENT, text, f"--{way}", address), refused)


def test_what_cannot_be_asked_is_one_line_too(pictures: list[Path], tmp_path: Path) -> None:
    assert_one_line(run(CLIENT, tmp_path / "absent.png"), "absent.png")
    assert_one_line(run(CLIENT, pictures[0], "--url", "localhost:8501"), "localhost:8501")


def test_another_kind_of_server_is_one_line_too(pictures: list[Path]) -> None:
    """It answers every request with 200 and a page."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *arguments: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.handle_request, daemon=True).start()
        done = run(CLIENT, pictures[0], "--url", f"http://127.0.0.1:{site.server_port}")
    assert_one_line(done, "is not TensorFlow Serving")


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="needs bash and curl")
def test_the_readmes_curl_line_asks_as_the_client_does(
    server: Any, pictures: list[Path], expected: list[tuple[str, float]]
) -> None:
    readme = (EXAMPLES / "serving" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^\$ (\{ printf.*?:predict)$", readme, re.MULTILINE | re.DOTALL)
    assert found is not None
    line = found[1].replace("photo.png", str(pictures[0])).replace("localhost:8501", server.url)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=60)
    assert f'"class_name": "{expected[0][0]}"' in done.stdout


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize(
    ("script", "package"),
    [
        ("litert_predict", "ai_edge_litert"),
        ("onnx_predict", "onnxruntime"),
        ("load_saved_model", "tensorflow"),
    ],
)
def test_a_script_reads_images_as_training_did(
    tmp_path: Path, script: str, package: str, resize: str
) -> None:
    """At most one level of 255 apart, as Pillow may resize the columns first."""
    pytest.importorskip(package)
    read_image = load_script(EXAMPLES / f"{script}.py").read_image
    shown = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    for kind in ("PNG", "grey PNG", "grey PNG of 16 bits", "PNG with alpha", "JPEG"):
        (tmp_path / "image").write_bytes(KINDS[kind](shown.copy()))
        for shape, bits in (((32, 32, 3), None), ((28, 28, 1), 12)):
            preprocessing = Preprocessing(shape, resize, bits)
            expected = preprocessing.decode((tmp_path / "image").read_bytes()).pixels
            pixels = read_image(tmp_path / "image", dataclasses.asdict(preprocessing))[0]
            assert np.abs(pixels.astype(int) - expected).max() <= 1, kind


@pytest.mark.parametrize(
    ("script", "form", "package"),
    [("litert_predict.py", "litert", "ai_edge_litert"), ("onnx_predict.py", "onnx", "onnxruntime")],
)
def test_a_small_machines_script_needs_no_tensorflow_and_gives_the_same_class(
    artefacts: dict[str, Path], pictures: list[Path], expected: list[tuple[str, float]],
    script: str, form: str, package: str,
) -> None:  # fmt: skip
    pytest.importorskip(package)
    if form not in artefacts:
        pytest.skip(f"{form} cannot be exported here")
    done = run(EXAMPLES / script, artefacts[form], *pictures, banned="cifar_trainer tensorflow keras")
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith(str(pictures[0].parent))]
    for line, path, (name, share) in zip(printed, pictures, expected, strict=True):
        guesses = re.findall(r"(\w+) ([\d.]+)%", line.removeprefix(f"{path}: "))
        assert len(guesses) == 3
        assert guesses[0][0] == name
        assert float(guesses[0][1]) == pytest.approx(100 * share, abs=1)


def test_both_signatures_of_a_saved_model_agree_on_a_file(
    artefacts: dict[str, Path], pictures: list[Path], expected: list[tuple[str, float]]
) -> None:
    """The JPEG: Pillow and TensorFlow each decode and resize it."""
    path, (name, share) = pictures[-1], expected[-1]
    done = run(EXAMPLES / "load_saved_model.py", artefacts["saved_model"], path)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(said) == ["serving_default", "serving_bytes"]
    assert said["serving_bytes"] == f"{name} {share:.1%}"
    other, percent = said["serving_default"].rstrip("%").split()
    assert other == name
    assert float(percent) == pytest.approx(100 * share, abs=1)
