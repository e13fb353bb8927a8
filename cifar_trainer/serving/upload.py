"""`POST /predict`: one image file, as an HTML form or curl sends it."""

import base64
from typing import Any

import numpy as np
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cifar_trainer.images import DecodedImage, encode_png
from cifar_trainer.serving.payloads import json_response
from cifar_trainer.serving.problems import bad_request
from cifar_trainer.serving.service import Answers, Service


def routes(service: Service) -> list[Route]:
    """The path /predict."""

    async def predict(request: Request) -> Response:
        content = await _content(request, service.settings.limits.body_bytes)
        decoded = await service.decode(content)
        answers = await service.classify(decoded.pixels[None])
        answer = format_answer(service.settings.name, decoded, answers)
        if request.query_params.get("explain", "") not in ("", "0", "false"):
            answer["pixels"] = _data_url(encode_png(decoded.pixels))
            answer["grad_cam"] = await _grad_cam(service, decoded.pixels, int(answers.class_id[0]))
        return json_response(answer)

    return [Route("/predict", predict, methods=["POST"])]


def format_answer(name: str, decoded: DecodedImage, answers: Answers) -> dict[str, Any]:
    """The answer about one image as a JSON object; all classes, the likeliest first."""
    probabilities = answers.probabilities[0]
    order = np.argsort(-probabilities, kind="stable")
    classes = answers.model.artefact.classes
    return {
        "model": name,
        "version": answers.model.version,
        "format": decoded.format,
        "mode": decoded.mode,
        "width": decoded.width,
        "height": decoded.height,
        "class": classes[order[0]],
        "confidence": float(probabilities[order[0]]),
        "unfamiliar": None if answers.unfamiliar is None else bool(answers.unfamiliar[0]),
        "energy": float(answers.energy[0]),
        "max_probability": float(answers.max_probability[0]),
        "top": [
            {"class": classes[i], "class_id": int(i), "probability": float(probabilities[i])} for i in order
        ],
    }


async def _content(request: Request, limit: int) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return await request.body()
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=10)
    # Beyond its default size the file would be spooled to the disk; no image may be.
    parser.spool_max_size = limit
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise bad_request(f"The form cannot be read: {getattr(error, 'message', error)}") from error
    try:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise bad_request("The form holds no file. Expected one, such as: curl -F image=@cat.jpg …")
        return await files[0].read()
    finally:
        await form.close()


async def _grad_cam(service: Service, pixels: np.ndarray, class_id: int) -> str | None:
    """A PNG, white where the network looked, as a data address; None where no run's model can tell."""
    if service.explainer is None or not service.model.source.run:
        return None
    map_ = await service.in_thread(service.explainer.explain, pixels, class_id)
    if map_ is None:
        return None
    large = Image.fromarray((map_ * 255).astype(np.uint8)).resize((128, 128), Image.Resampling.BILINEAR)
    return _data_url(encode_png(np.asarray(large)[..., None]))


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
