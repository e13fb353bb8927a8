"""Classify images with TensorFlow Serving, over REST or, with --grpc, over gRPC.

    python client.py photo.png photo2.jpg
    python client.py photo.png --grpc localhost:8500

The client sends PNG and JPEG files of any size unchanged: the model's signature
`serving_bytes` decodes, resizes and scales them. REST needs only Python; gRPC needs
`pip install grpcio tensorflow-serving-api`.
"""

import argparse
import base64
import http.client
import importlib.util
import json
import struct
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SIGNATURE = "serving_bytes"
SECONDS = 30.0

#: Class name and probability.
Guess = tuple[str, float]


class NoAnswerError(Exception):
    """The server cannot be reached, or returned an error."""


def ask_rest(url: str, model: str, images: list[bytes]) -> list[Guess]:
    """POST /v1/models/MODEL:predict, with bytes as {"b64": "..."}."""
    instances = [{"image_bytes": {"b64": base64.b64encode(image).decode("ascii")}} for image in images]
    body = json.dumps({"signature_name": SIGNATURE, "instances": instances}).encode("ascii")
    address = f"{url.rstrip('/')}/v1/models/{model}:predict"
    try:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            predictions = json.load(response)["predictions"]
        return [(answer["class_name"], max(answer["probabilities"])) for answer in predictions]
    except urllib.error.HTTPError as error:
        content = error.read()
        try:
            reason = json.loads(content)["error"]
        except (ValueError, KeyError, TypeError):
            reason = content[:200].decode("utf-8", "replace")
        raise NoAnswerError(f"{url} answered {error.code}: {reason}") from error
    except urllib.error.URLError as error:
        raise NoAnswerError(f"{url} cannot be reached: {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise NoAnswerError(f"{url} is not TensorFlow Serving: {type(error).__name__}: {error}") from error


def ask_grpc(address: str, model: str, images: list[bytes]) -> list[Guess]:
    """Call PredictionService/Predict."""
    # The messages of tensorflow-serving-api import all of TensorFlow, which takes 8 s and logs on stderr.
    # Registering the package without running it makes its messages available, too.
    try:
        if "tensorflow" not in sys.modules and (spec := importlib.util.find_spec("tensorflow")):
            sys.modules["tensorflow"] = importlib.util.module_from_spec(spec)
        import grpc
        from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
    except ImportError as error:
        raise NoAnswerError(f"{error}. --grpc needs: pip install grpcio tensorflow-serving-api") from error

    batch = tensor_shape_pb2.TensorShapeProto.Dim(size=len(images))
    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[batch]),
        string_val=images,
    )
    request = predict_pb2.PredictRequest(inputs={"image_bytes": tensor})
    request.model_spec.name = model
    request.model_spec.signature_name = SIGNATURE
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            outputs = stub.Predict(request, timeout=SECONDS).outputs
        except grpc.RpcError as error:
            raise NoAnswerError(f"{address} answered {error.code().name}: {error.details()}") from error
    names = [name.decode("utf-8") for name in outputs["class_name"].string_val]
    probabilities = floats(outputs["probabilities"])
    classes = len(probabilities) // len(images)
    return [(name, max(probabilities[i * classes : (i + 1) * classes])) for i, name in enumerate(names)]


def floats(tensor: Any) -> list[float]:
    """A TensorProto's float32 values in row order; stored as a list, or as little-endian bytes."""
    content = tensor.tensor_content
    return list(tensor.float_val) or list(struct.unpack(f"<{len(content) // 4}f", content))


def main() -> int:
    """Print one line per image; return 1 if a file cannot be read or the server does not answer."""
    parser = argparse.ArgumentParser(description="Classify images with TensorFlow Serving.")
    parser.add_argument("images", nargs="+", type=Path, help="PNG or JPEG files of any size")
    parser.add_argument("--url", default="http://localhost:8501", help="REST address [%(default)s]")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="use gRPC at this address")
    parser.add_argument("--model", default="cifar10", help="the server's MODEL_NAME [%(default)s]")
    options = parser.parse_args()
    ask, address = (ask_grpc, options.grpc) if options.grpc else (ask_rest, options.url)
    try:
        guesses = ask(address, options.model, [path.read_bytes() for path in options.images])
    except (OSError, NoAnswerError) as error:
        print("Error: " + " ".join(str(error).split()), file=sys.stderr)
        return 1
    for path, (name, probability) in zip(options.images, guesses, strict=True):
        print(f"{path}: {name} {probability:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
