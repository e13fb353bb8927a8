"""The protocols: what a client of each is answered."""

import base64
from typing import Any

import httpx
import numpy as np
import pytest
from serving_server import CLASSES, SHAPE, Running, images_of

MODEL = "/v1/models/colours"
INFER = "/v2/models/colours/infer"


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def expected(images: np.ndarray) -> list[str]:
    return [CLASSES[i] for i in images.mean(axis=(1, 2)).argmax(axis=1)]


def test_a_form_with_a_file_is_answered(client: httpx.Client, png: bytes) -> None:
    answer = client.post("/predict", files={"image": ("green.png", png)}).json()
    assert answer["class"] == "green"
    assert answer["top"][0]["class"] == "green"
    assert answer["confidence"] == answer["top"][0]["probability"]


def test_the_bytes_of_a_file_alone_are_answered(client: httpx.Client, png: bytes) -> None:
    assert client.post("/predict", content=png).json()["class"] == "green"


def test_an_ordinary_image_is_familiar(client: httpx.Client) -> None:
    body = {"instances": images_of(20).tolist()}
    rows = client.post(f"{MODEL}:predict", json=body).json()["predictions"]
    assert np.mean([row["unfamiliar"] for row in rows]) < 0.3


def test_a_black_image_is_unfamiliar(client: httpx.Client) -> None:
    body = {"instances": np.zeros((1, *SHAPE), np.uint8).tolist()}
    assert client.post(f"{MODEL}:predict", json=body).json()["predictions"][0]["unfamiliar"]


def test_rows_are_answered_in_rows(client: httpx.Client) -> None:
    images = images_of(5)
    rows = client.post(f"{MODEL}:predict", json={"instances": images.tolist()}).json()["predictions"]
    assert [row["class_name"] for row in rows] == expected(images)


def test_a_column_is_answered_in_columns(client: httpx.Client) -> None:
    images = images_of(5)
    outputs = client.post(f"{MODEL}:predict", json={"inputs": {"images": images.tolist()}}).json()["outputs"]
    assert outputs["class_name"] == expected(images)


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
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "JSON Parse error"),
        (b"[1]", "Expected `object`, got `array`"),
        (b"{}", "either"),
        (b'{"instances": []}', "empty"),
        (b'{"instances": 3}', "got `int`"),
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


def test_values_beyond_a_byte_are_refused(client: httpx.Client) -> None:
    body = {"instances": np.full((1, *SHAPE), 256).tolist()}
    assert "<= 255" in client.post(f"{MODEL}:predict", json=body).json()["error"]


@pytest.mark.parametrize("nested", [True, False])
def test_open_inference_takes_pixels(client: httpx.Client, nested: bool) -> None:
    images = images_of(3)
    data = images.tolist() if nested else images.ravel().tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": data}
    answer = client.post(
        INFER, json={"id": "7", "inputs": [tensor], "outputs": [{"name": "class_name"}]}
    ).json()
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
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *SHAPE], "data": images_of(1).tolist()}
    answer = client.post(INFER, json={"inputs": [{**tensor, **change}]})
    assert answer.status_code == 400, answer.text
    assert "inputs[0]" in answer.json()["error"]


def test_triton_s_client_is_answered(server: Running) -> None:
    triton = pytest.importorskip("tritonclient.http")
    images = images_of(4)
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as asking:
        assert asking.is_server_ready()
        assert asking.is_model_ready("colours")
        tensor = triton.InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images, binary_data=False)
        answer = asking.infer("colours", [tensor])
    assert answer.as_numpy("class_id").tolist() == images.mean(axis=(1, 2)).argmax(axis=1).tolist()


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics"])
def test_the_metrics_count_requests_and_classes(client: httpx.Client, png: bytes, path: str) -> None:
    client.post("/predict", content=png)
    text = client.get(path).text
    assert 'cifar_trainer_requests_total{method="POST",route="/predict",status="200"}' in text
    assert 'cifar_trainer_predictions_total{class_name="green"}' in text
