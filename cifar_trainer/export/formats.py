"""The formats and what each has to hold. Imports no TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Bound:
    """How far an artefact may be from the Keras model.

    Attributes:
        difference: of any logit; None where only the classes count.
        agreement: the least share of pictures with the same top class. Two classes whose
            logits differ by less than twice `difference` are a tie, and either will do.
        accuracy_loss: in points of accuracy; an artefact that loses no more passes even
            below `agreement`. None where that is no excuse.
    """

    difference: float | None
    agreement: float
    accuracy_loss: float | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: as on the command line.
        file_name: of the artefact, in the export's folder.
        bound: what the gate asks for.
        extra: of this package's extras, the one that brings `packages`.
        packages: modules that must be importable.
        takes_bytes: whether the artefact decodes pictures too.
    """

    name: str
    file_name: str
    bound: Bound
    extra: str | None = None
    packages: tuple[str, ...] = ()
    takes_bytes: bool = False

    @property
    def is_folder(self) -> bool:
        return "." not in self.file_name


_EXACT = Bound(difference=1e-4, agreement=1.0)

FORMATS = {
    each.name: each
    for each in (
        Format("saved_model", "saved_model", _EXACT, takes_bytes=True),
        Format("keras", "model.keras", _EXACT),
        Format("litert", "model.tflite", _EXACT, "litert", ("ai_edge_litert",)),
        Format("litert-float16", "model-float16.tflite", Bound(None, 0.999), "litert", ("ai_edge_litert",)),
        Format("litert-int8", "model-int8.tflite", Bound(None, 0.99, 0.01), "litert", ("ai_edge_litert",)),
        Format("onnx", "model.onnx", _EXACT, "onnx", ("onnx", "onnxruntime", "tf2onnx")),
    )
}
