"""`POST /predict` and `POST /explain`: one image file, as an HTML form or curl sends it."""

import email.message
import email.parser
import functools

import msgspec
import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cifar_trainer.images import DecodedImage, encode_png
from cifar_trainer.pages import data_uri
from cifar_trainer.serving.api.bodies import json_response, parse_body, to_list
from cifar_trainer.serving.errors import bad_request
from cifar_trainer.serving.service import Answers, Service

#: Parts of a form, and bytes of a part's headers.
_PARTS, _PART_HEADER_BYTES = 20, 8192
_HEAT_SIZE = (128, 128)


class Guess(msgspec.Struct):
    """A class and its calibrated probability."""

    name: str = msgspec.field(name="class")
    class_id: int
    probability: float


class Explanation(msgspec.Struct):
    """What the network sees, and the parts of it that support a class, as PNG files in data URLs."""

    pixels: str
    grad_cam: str | None


class Prediction(msgspec.Struct):
    """The answer about one image; `top` has all classes, most likely first.

    With `serve --coverage`, `set` has the right class with the probability `coverage`; empty is "unknown".
    """

    model: str
    version: int
    weights_sha256: str | None
    format: str
    mode: str
    width: int
    height: int
    name: str = msgspec.field(name="class")
    confidence: float
    unfamiliar: bool | None
    energy: float
    max_probability: float
    top: list[Guess]
    coverage: float | msgspec.UnsetType = msgspec.UNSET
    class_set: list[str] | msgspec.UnsetType = msgspec.field(name="set", default=msgspec.UNSET)
    pixels: str | msgspec.UnsetType = msgspec.UNSET
    grad_cam: str | msgspec.UnsetType | None = msgspec.UNSET


def routes(service: Service) -> list[Route]:
    """The paths /predict and /explain."""

    async def predict(request: Request) -> Response:
        """Classify an image; with `?explain=1`, also explain the answer."""
        decoded = await service.decode(await _file_of(service, request))
        answers = await service.classify(decoded.pixels[None])
        answer = describe(service.settings.name, decoded, answers)
        if request.query_params.get("explain", "") not in ("", "0", "false"):
            explanation = await _explain(service, decoded.pixels, int(answers.class_id[0]))
            answer.pixels, answer.grad_cam = explanation.pixels, explanation.grad_cam
        return json_response(answer)

    async def explain(request: Request) -> Response:
        """Explain the class `?class_id=N` of an image. The image is not classified."""
        class_id = request.query_params.get("class_id", "")
        classes = len(service.model.artefact.classes)
        if not class_id.isdecimal() or len(class_id) > 9 or int(class_id) >= classes:
            raise bad_request(f"class_id is {class_id[:80]!r}. Expected a number from 0 to {classes - 1}.")
        decoded = await service.decode(await _file_of(service, request))
        return json_response(await _explain(service, decoded.pixels, int(class_id)))

    return [Route("/predict", predict, methods=["POST"]), Route("/explain", explain, methods=["POST"])]


def describe(model: str, decoded: DecodedImage, answers: Answers) -> Prediction:
    """The answer about the first image of `answers`."""
    classes = answers.model.artefact.classes
    probabilities = to_list(answers.probabilities[0])
    order = np.argsort(-answers.probabilities[0], kind="stable").tolist()
    top = [Guess(classes[i], i, probabilities[i]) for i in order]
    prediction = Prediction(
        model=model,
        version=answers.model.version,
        weights_sha256=answers.model.source.weights_sha256,
        format=decoded.format,
        mode=decoded.mode,
        width=decoded.width,
        height=decoded.height,
        name=top[0].name,
        confidence=top[0].probability,
        unfamiliar=None if answers.unfamiliar is None else bool(answers.unfamiliar[0]),
        energy=float(answers.energy[0]),
        max_probability=float(answers.max_probability[0]),
        top=top,
    )
    if answers.in_set is not None and answers.model.sets is not None:
        prediction.coverage = answers.model.sets.coverage
        prediction.class_set = [classes[i] for i in order if answers.in_set[0, i]]
    return prediction


async def _file_of(service: Service, request: Request) -> bytes:
    """The image file in a body: the body itself, or the file of a form."""
    header = email.message.Message()
    header["content-type"] = request.headers.get("content-type", "application/octet-stream")
    is_form = header.get_content_type() == "multipart/form-data"
    return await parse_body(service, request, functools.partial(_file_of_form, header) if is_form else bytes)


def _file_of_form(header: email.message.Message, body: bytes) -> bytes:
    """The file in a form, multipart/form-data (RFC 7578)."""
    boundary = header.get_boundary()
    if not boundary:
        raise bad_request("The form has no boundary in its Content-Type.")
    delimiter = b"\r\n--" + boundary.encode("utf-8", "surrogateescape")
    parts = (b"\r\n" + body).split(delimiter, _PARTS + 1)
    if len(parts) > _PARTS + 1 or not parts[-1].startswith(b"--"):
        raise bad_request(f"The form is truncated, or has more than {_PARTS} fields.")
    files = []
    for part in parts[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if len(head) > _PART_HEADER_BYTES:
            raise bad_request("A field of the form has headers that are too long.")
        if email.parser.BytesHeaderParser().parsebytes(head.lstrip()).get_filename() is not None:
            files.append(content)
    if len(files) != 1:
        raise bad_request(
            f"The form has {len(files)} files. Expected one, for example: curl -F image=@cat.jpg …"
        )
    return files[0]


async def _explain(service: Service, pixels: np.ndarray, class_id: int) -> Explanation:
    heat = await service.explain(pixels, class_id)
    if heat is None:
        return Explanation(data_uri(encode_png(pixels)), None)
    large = Image.fromarray((heat * 255).astype(np.uint8)).resize(_HEAT_SIZE, Image.Resampling.BILINEAR)
    return Explanation(data_uri(encode_png(pixels)), data_uri(encode_png(np.asarray(large)[..., None])))
