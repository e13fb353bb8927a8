"""A stand-in for TensorFlow Serving: Predict over REST and gRPC, from an exported SavedModel.

What it answers follows "RESTful API" in TensorFlow Serving's guide: instances by row, bytes
as {"b64": "..."}, an error as {"error": "..."}; over gRPC a status and a message.
"""

import base64
import binascii
import http.server
import json
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

NAME = "cifar10"


class RequestError(Exception):
    """What is wrong with a request, as an HTTP status and the gRPC status that goes with it."""

    def __init__(self, status: int, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def unknown_model(name: str) -> RequestError:
    message = f"Servable not found for request: Latest({name})"
    return RequestError(404, grpc.StatusCode.NOT_FOUND, message)


def bad_request(message: str) -> RequestError:
    return RequestError(400, grpc.StatusCode.INVALID_ARGUMENT, message)


class StandIn:
    """Serves version 1 below `folder` as `cifar10`, on two free ports, inside a `with` block.

    Attributes:
        url: of the REST interface.
        address: of the gRPC interface, HOST:PORT.
    """

    def __init__(self, folder: Path) -> None:
        self._model = tf.saved_model.load(str(folder / "1"))
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _rest_handler(self))
        self._grpc = grpc.server(futures.ThreadPoolExecutor(2))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_GrpcService(self), self._grpc)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.address = f"127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> "StandIn":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None).wait()

    def signature(self, model: str, name: str) -> Any:
        if model != NAME:
            raise unknown_model(model)
        try:
            return self._model.signatures[name or "serving_default"]
        except KeyError:
            raise bad_request(f'Serving signature name: "{name}" not found in signature def') from None

    def predict(self, signature: Any, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        try:
            outputs: dict[str, tf.Tensor] = signature(**inputs)
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise bad_request(str(error)) from error
        return outputs


def _rest_handler(server: StandIn) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                status, answer = 200, self.predictions()
            except RequestError as error:
                status, answer = error.status, {"error": str(error)}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def predictions(self) -> dict[str, Any]:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            path, _, verb = self.path.partition(":")
            if not path.startswith("/v1/models/") or verb != "predict":
                raise bad_request(f"Malformed request: POST {self.path}")
            try:
                body = json.loads(content)
            except ValueError as error:
                raise bad_request(f"JSON Parse error: {error}") from error
            signature = server.signature(path.removeprefix("/v1/models/"), body.get("signature_name", ""))
            outputs = server.predict(signature, _rows(body, signature.structured_input_signature[1]))
            columns = {name: _plain(value.numpy().tolist()) for name, value in outputs.items()}
            rows = zip(*columns.values(), strict=True)
            return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}

        def log_message(self, format: str, *arguments: object) -> None: ...

    return Handler


def _rows(body: dict[str, Any], specs: dict[str, tf.TensorSpec]) -> dict[str, tf.Tensor]:
    """The body's instances as the signature's only input; a row may leave the input's name out."""
    ((name, spec),) = specs.items()
    try:
        rows = [row[name] if isinstance(row, dict) and name in row else row for row in body["instances"]]
        values = [
            base64.b64decode(row["b64"], validate=True) if isinstance(row, dict) else row for row in rows
        ]
        return {name: tf.constant(values, spec.dtype)}
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise bad_request(f"Failed to process instances: {type(error).__name__}: {error}") from error


def _plain(values: list[Any]) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in values]


class _GrpcService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, server: StandIn) -> None:
        self._server = server

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name for it
        spec = request.model_spec
        response = predict_pb2.PredictResponse()
        try:
            signature = self._server.signature(spec.name, spec.signature_name)
            inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
            for name, value in self._server.predict(signature, inputs).items():
                response.outputs[name].CopyFrom(_by_field(value))
        except RequestError as error:
            context.abort(error.code, str(error))
        return response


def _by_field(value: tf.Tensor) -> Any:
    """A TensorProto as TensorFlow Serving fills it: each value by itself, none of them packed."""
    proto = tf.make_tensor_proto(value)
    if value.dtype == tf.float32:
        proto.ClearField("tensor_content")
        proto.float_val[:] = value.numpy().ravel().tolist()
    return proto
