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
    """A format: the name of its file or folder, its bound, and the extra that brings its packages."""

    name: str
    file_name: str
    bound: Bound
    extra: str | None = None
    packages: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        return "." not in self.file_name


_EXACT = Bound(difference=1e-4, agreement=1.0)

FORMATS = {each.name: each for each in (Format("saved_model", "saved_model", _EXACT),)}
