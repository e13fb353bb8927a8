"""The protocols: what a client of each is answered."""

import base64
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from serving_server import CLASSES, SHAPE, ColourModel, Running, images_of, running, served, web

from cifar_trainer.artefacts.source import Source
from cifar_trainer.conformal import Coverage
from cifar_trainer.images import encode_png
from cifar_trainer.serving.api.bodies import to_list

MODEL = "/v1/models/colours"
INFER = "/v2/models/colours/infer"


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def tensor(images: np.ndarray, **changes: Any) -> dict[str, Any]:
    """Images as an input of the Open Inference Protocol."""
    shape, data = list(images.shape), images.tolist()
    return {"name": "images", "datatype": "UINT8", "shape": shape, "data": data, **changes}


def expected(images: np.ndarray) -> list[str]:
    return [CLASSES[i] for i in images.mean(axis=(1, 2)).argmax(axis=1)]


def test_a_form_with_a_file_is_answered_with_all_classes_the_likeliest_first(
    client: httpx.Client, png: bytes
) -> None:
    answer = client.post("/predict", files={"image": ("green.png", png)}).json()
    probabilities = [each["probability"] for each in answer["top"]]
    assert answer["class"] == answer["top"][0]["class"] == "green"
    assert answer["confidence"] == probabilities[0]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    # An image of the mean colours (20, 200, 20): the other two are equal, and the lower class comes first.
    assert [each["class_id"] for each in answer["top"]] == [1, 0, 2]


def test_the_bytes_of_a_file_alone_are_answered(client: httpx.Client, png: bytes) -> None:
    assert client.post("/predict", content=png).json()["class"] == "green"


@pytest.mark.parametrize("path", ["/predict", "/explain?class_id=1"])
@pytest.mark.parametrize("is_form", [False, True])
def test_an_image_is_answered_alike_if_compressed_and_another_encoding_is_415(
    client: httpx.Client, png: bytes, path: str, is_form: bool
) -> None:
    plain = client.build_request("POST", path, **({"files": {"image": png}} if is_form else {"content": png}))
    body, expected = plain.read(), client.send(plain).json()
    headers = {"Content-Type": plain.headers.get("Content-Type", "image/png")}

    def post(encoding: str, content: bytes) -> httpx.Response:
        return client.post(path, content=content, headers={**headers, "Content-Encoding": encoding})

    for encoding, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        assert post(encoding, compress(body)).json() == expected
    assert post("br", body).status_code == 415


def test_a_black_image_is_unfamiliar_and_an_ordinary_one_is_not(client: httpx.Client) -> None:
    images = np.concatenate([np.zeros((1, *SHAPE), np.uint8), images_of(20)])
    body = {"instances": images.tolist()}
    black, *others = client.post(f"{MODEL}:predict", json=body).json()["predictions"]
    assert black["unfamiliar"]
    assert np.mean([row["unfamiliar"] for row in others]) < 0.3


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_are_answered_in_rows_and_columns_in_columns(
    client: httpx.Client, indent: int | None, mark: str
) -> None:
    images = images_of(4)
    # An image may have a name, and numbers that are whole but floating-point.
    named = [*images[:2].tolist(), {"images": images[2].tolist()}, images[3].astype(float).tolist()]

    def post(body: dict[str, Any]) -> Any:
        return client.post(f"{MODEL}:predict", content=mark + json.dumps(body, indent=indent)).json()

    rows = post({"instances": named})["predictions"]
    assert [row["class_name"] for row in rows] == expected(images)
    for column in (images.tolist(), {"images": images.tolist()}):
        assert post({"inputs": column})["outputs"]["class_name"] == expected(images)


def test_encoded_images_are_answered(client: httpx.Client, png: bytes) -> None:
    body = {"signature_name": "serving_bytes", "instances": [{"image_bytes": b64(png)}, b64(png)]}
    rows = client.post(f"{MODEL}/versions/1:predict", json=body).json()["predictions"]
    assert [row["class_name"] for row in rows] == ["green", "green"]


def test_the_status_names_the_version(client: httpx.Client) -> None:
    (entry,) = client.get(MODEL).json()["model_version_status"]
    assert (entry["version"], entry["state"]) == ("1", "AVAILABLE")


def test_the_metadata_tell_the_input(client: httpx.Client) -> None:
    signatures = client.get(f"{MODEL}/metadata").json()["metadata"]["signature_def"]["signature_def"]
    dims = signatures["serving_default"]["inputs"]["images"]["tensor_shape"]["dim"]
    assert [dim["size"] for dim in dims] == ["-1", *map(str, SHAPE)]


@pytest.mark.parametrize(
    "path",
    ["/v1/models/other", "/v1/models/colours/versions/2", "/v2/models/other", "/nothing"],
)
def test_what_is_not_there_is_404_with_an_error(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error", "request_id"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "JSON Parse error"),
        (b"[1]", "Expected `object`, got `array`"),
        (b"{}", "either"),
        (b'{"instances": []}', "one or more images"),
        (b'{"instances": 3}', "got `int`"),
        (json.dumps({"instances": np.full((1, *SHAPE), 256).tolist()}).encode(), "<= 255"),
        (b'{"signature_name": "serving_bytes", "instances": [{"b64": "data:,AA"}]}', "data: URL"),
        (b'{"instances": [[1, 2], [3]]}', "instances[0]: Expected `array`, got `int`"),
        (b'{"instances": [[1, 2, 3]]}', "shape"),
        (b'{"instances": ["red"]}', "got `str`"),
        (b'{"instances": [NaN]}', "JSON Parse error"),
        (b'{"instances": [0.5]}', "got `float`"),
        (b'{"instances": [null]}', "got `null`"),
        (b'{"instances": [true]}', "got `bool`"),
        (b'{"instances": ' + b"[" * 100_000, "JSON Parse error"),
        (b'{"signature_name": "no", "instances": [1]}', "not found"),
        (b'{"signature_name": "serving_bytes", "instances": [{"b64": "?"}]}', "base64"),
        (b'{"signature_name": "serving_bytes", "instances": [{"b64": "aGVsbG8="}]}', "not an image"),
        (b'{"signature_name": "serving_bytes", "instances": [7]}', "Expected `object`, got `int`"),
    ],
)
def test_a_wrong_body_is_400_and_says_why(client: httpx.Client, body: bytes, reason: str) -> None:
    answer = client.post(f"{MODEL}:predict", content=body)
    assert answer.status_code == 400, answer.text
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("number", ["7", 7])
def test_open_inference_takes_pixels_and_returns_the_id(
    client: httpx.Client, nested: bool, number: str | int
) -> None:
    images = images_of(3)
    given = tensor(images) if nested else tensor(images, data=images.ravel().tolist())
    body = {"id": number, "inputs": [given], "outputs": [{"name": "class_name"}]}
    answer = client.post(INFER, json=body).json()
    assert answer["id"] == "7"
    assert answer["outputs"] == [
        {"name": "class_name", "datatype": "BYTES", "shape": [3], "data": expected(images)}
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"}, {"datatype": "FP32"}, {"shape": [2, 8, 8, 3]}, {"shape": "x"},
        {"shape": [1, 9, 9, 3]}, {"data": "x"}, {"data": [1, 2]}, {"data": [[1]]},
    ],
)  # fmt: skip
def test_open_inference_refuses_a_wrong_tensor(client: httpx.Client, change: dict[str, Any]) -> None:
    answer = client.post(INFER, json={"inputs": [tensor(images_of(1), **change)]})
    assert answer.status_code == 400, answer.text
    assert "inputs[0]" in answer.json()["error"]


@pytest.fixture
def triton(server: Running) -> Iterator[tuple[Any, Any]]:
    """Triton's module, and its client of the server."""
    module = pytest.importorskip("tritonclient.http")
    with module.InferenceServerClient(server.url.removeprefix("http://")) as opened:
        yield module, opened


@pytest.mark.parametrize("binary", [True, False])
def test_triton_s_client_is_answered_with_and_without_binary_tensors(
    triton: tuple[Any, Any], binary: bool
) -> None:
    module, asking = triton
    images = images_of(4)
    assert asking.is_server_ready()
    assert asking.is_model_ready("colours")
    given = module.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images, binary_data=binary)
    answer = asking.infer("colours", [given])
    assert answer.as_numpy("class_id").tolist() == images.mean(axis=(1, 2)).argmax(axis=1).tolist()
    assert [name.decode() for name in answer.as_numpy("class_name")] == expected(images)
    # Ignoring it would answer something else than was asked for.
    with pytest.raises(Exception, match="class_count"):
        asking.infer("colours", [given], outputs=[module.InferRequestedOutput("logits", class_count=2)])


def test_triton_s_client_sends_image_files_as_binary_tensors(triton: tuple[Any, Any], png: bytes) -> None:
    module, asking = triton
    given = module.InferInput("image_bytes", [2], "BYTES")
    given.set_data_from_numpy(np.array([png, png], object))
    assert asking.infer("colours", [given]).as_numpy("class_name").tolist() == [b"green", b"green"]


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics"])
def test_the_metrics_count_requests_and_classes(client: httpx.Client, png: bytes, path: str) -> None:
    client.post("/predict", content=png)
    text = client.get(path).text
    assert 'cifar_trainer_requests_total{method="POST",route="/predict",status="200"}' in text
    assert 'cifar_trainer_predictions_total{class_name="green"}' in text


@pytest.mark.parametrize(
    "change", [lambda text: text.rstrip("="), lambda text: text.translate({43: 45, 47: 95})]
)
def test_base64_may_be_url_safe_and_without_padding(
    client: httpx.Client, png: bytes, change: Callable[[str], str]
) -> None:
    body = {"signature_name": "serving_bytes", "instances": [{"b64": change(b64(png + b"12")["b64"])}]}
    assert client.post(f"{MODEL}:predict", json=body).status_code == 200


def test_whether_a_model_is_ready_is_told_with_its_name(client: httpx.Client) -> None:
    assert client.get("/v2/models/colours/ready").json() == {"name": "colours", "ready": True}


def test_a_model_without_thresholds_does_not_list_unfamiliar() -> None:
    holder = SimpleNamespace(current=served(ColourModel(), thresholds=None), failure=None)
    with running(holder) as server:
        outputs = {each["name"] for each in web.get(f"{server.url}/v2/models/colours").json()["outputs"]}
        metadata = web.get(f"{server.url}{MODEL}/metadata").text
        answer = web.post(server.url + INFER, json={"inputs": [tensor(images_of(1))]}).json()
    answered = {each["name"] for each in answer["outputs"]}
    assert "unfamiliar" not in outputs
    assert "unfamiliar" not in metadata
    assert answered == outputs


def test_with_a_coverage_every_protocol_gives_the_set_of_an_image() -> None:
    sets = Coverage(100, False, {"90": (0.3,)}).at(90)
    images = np.zeros((3, *SHAPE), np.uint8)
    images[0, ..., 1] = images[1, ..., :2] = 200
    inside = [[False, True, False], [True, True, False], [True, True, True]]
    model = ColourModel()
    with running(SimpleNamespace(current=served(model, sets=sets), failure=None)) as server:
        answers = [web.post(f"{server.url}/predict", content=encode_png(image)).json() for image in images]
        assert [answer["set"] for answer in answers] == [["green"], ["red", "green"], [*CLASSES]]
        assert answers[0]["coverage"] == 0.9
        rows = web.post(f"{server.url}{MODEL}:predict", json={"instances": images.tolist()}).json()
        assert [row["in_set"] for row in rows["predictions"]] == inside
        inferred = web.post(f"{server.url}/v2/models/colours/infer", json={"inputs": [tensor(images)]}).json()
        output = next(each for each in inferred["outputs"] if each["name"] == "in_set")
        assert (output["datatype"], output["shape"]) == ("BOOL", [3, 3])
        assert output["data"] == np.ravel(inside).tolist()
        metadata = web.get(f"{server.url}/v2/models/colours").json()
        assert {"name": "in_set", "datatype": "BOOL", "shape": [-1, 3]} in metadata["outputs"]
        properties = web.get(f"{server.url}/openapi.json").json()["components"]["schemas"]["Prediction"]
        assert {"set", "coverage"} <= set(properties["properties"])


def test_answers_and_metrics_tell_the_weights(png: bytes) -> None:
    training, data = SimpleNamespace(weights_sha256="ab" * 32), SimpleNamespace(name="colours")
    manifest: Any = SimpleNamespace(run=training, data=data)
    holder = SimpleNamespace(
        current=served(ColourModel(), source=Source(Path("model"), None, manifest)), failure=None
    )
    with running(holder) as server:
        answer = web.post(f"{server.url}/predict", content=png).json()
        metadata = web.get(f"{server.url}/v2/models/colours").json()
        metrics = web.get(f"{server.url}/metrics").text
    assert answer["weights_sha256"] == metadata["parameters"]["weights_sha256"] == "ab" * 32
    assert f'sha256="{"ab" * 32}",version="1"' in metrics


def test_float32_is_sent_with_the_digits_that_it_has() -> None:
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(size=1000), draw.uniform(size=1000) * 1e-6, [0, 1, -40]])
    values = values.astype(np.float32)
    sent = to_list(values)
    assert np.array_equal(np.array(sent, np.float32), values)
    assert max(len(str(each).replace("e-", "")) for each in sent) <= 14


@pytest.mark.parametrize("path", ["/predict/", "/v2/", "/metrics/"])
def test_a_path_with_a_slash_too_many_is_404_and_not_redirected(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_get_of_predict_is_a_malformed_request_as_for_tensorflow_serving(client: httpx.Client) -> None:
    assert client.get(f"{MODEL}:predict").json()["error"] == f"Malformed request: GET {MODEL}:predict"


def test_the_metrics_have_memory_and_processor_time_and_no_times_of_creation(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text


def test_a_class_can_be_explained_only_if_it_exists(client: httpx.Client, png: bytes) -> None:
    answers = [client.post(f"/explain?class_id={i}", content=png) for i in ("2", "3", "x")]
    assert [answer.status_code for answer in answers] == [200, 400, 400]
    assert answers[0].json()["grad_cam"] is None


def test_the_openapi_document_has_every_path_and_the_types_of_bodies(
    server: Running, client: httpx.Client, png: bytes
) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        (method,) = operations
        assert operations[method]["summary"].endswith((".", "page in a browser."))
        address = path.format(name="colours", version=1)
        assert client.request(method, address, params={"class_id": 1}, content=png).status_code in (200, 400)
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references | {"PredictRequest"} == set(schemas)
    answer = client.post("/predict", content=png).json()
    assert set(answer) == set(schemas["Prediction"]["required"])
    assert set(client.get("/nothing").json()) == set(schemas["ErrorBody"]["required"])
