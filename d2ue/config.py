"""What an ensemble is trained with and scored by: one commented field a setting.

Defaults are the paper's (Section 3 and the released configuration files). Where paper and
released code differ, the default is what produced the published numbers and the field's comment
names the other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from d2ue.errors import InputError
from d2ue.similarity import SIMILARITIES

BACKBONES = ("ae", "memae", "aeu")
BACKBONE_TITLES = {"ae": "AE", "memae": "MemAE", "aeu": "AEU"}
#: Powers of two, so that stride-2 layers lead to a 4 x 4 grid.
IMAGE_SIZES = (16, 32, 64, 128, 256, 512)
#: How products of matrices and convolutions are computed while training; all else is float32.
PRECISIONS = ("float32", "tf32", "bf16")
METHODS = ("ensemble", "output", "dual", "input")
#: Learning rate by backbone (Section 3, "Implementation Details").
LEARNING_RATES = {"ae": 5e-4, "memae": 5e-4, "aeu": 1e-3}
#: What Eq. (6) takes the gradient of, by backbone; the first is the released code's.
GRADIENT_ERRORS = {"ae": ("l1", "mse"), "memae": ("l1", "mse"), "aeu": ("weighted-mse", "nll")}


@dataclass(frozen=True)
class TrainConfig:
    """How an ensemble is trained. Immutable; equal settings are equal objects.

    The default backbone is AEU here, in `d2ue fit` and in `D2UE`: with it the paper's method is
    best (Table 1), and its scores depend least on the seed in our runs. Table 3 and the ablations
    are of the plain autoencoder, "ae".

    Raises:
        InputError: on a value that has no meaning, naming the field and what it may be.
    """

    backbone: str = "aeu"  # ae | memae | aeu
    n_learners: int = 3  # N, trained one after another
    similarity: str = "cka"  # S in Eq. (1); a name of d2ue.similarity.SIMILARITIES
    repulsion_weight: float = 1.0  # lambda in Eq. (4); 0 = no repulsion
    layer: str = "z"  # whose feature is repelled: en1 ... z ... de1
    epochs: int = 250  # passes over the training set; the last state is kept
    batch_size: int = 64  # images a step; the last partial batch is dropped
    learning_rate: float | None = None  # Adam's; None = LEARNING_RATES of the backbone
    beta1: float = 0.5  # Adam's first decay
    beta2: float = 0.999  # Adam's second decay
    image_size: int = 64  # pixels a side; one of IMAGE_SIZES
    seed: int = 0  # of initial weights and shuffles
    memory_slots: int = 25  # MemAE: items in the memory
    shrinkage: float = 0.0025  # MemAE: hard shrinkage (the configuration's 0.0 is never read)
    entropy_weight: float = 2e-4  # MemAE: weight of the addressing's entropy in the loss
    precision: str = "float32"  # of products: float32 | tf32 (CUDA only) | bf16; not the paper's

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):
                value = value.item()
            _check_type(field.name, value, field.type)
            if "float" in str(field.type) and isinstance(value, int) and abs(value) < 2**53:
                # lambda 1 and lambda 1.0 are one setting, also where they are written down.
                value = float(value)
            object.__setattr__(self, field.name, value)
        if self.learning_rate == LEARNING_RATES.get(self.backbone):
            # The published rate is one setting whether it is written out or not: a saved config
            # equals its original, and another backbone takes its own rate.
            object.__setattr__(self, "learning_rate", None)
        _check_choice("backbone", self.backbone, BACKBONES)
        _check_choice("similarity", self.similarity, tuple(SIMILARITIES))
        if self.image_size not in IMAGE_SIZES:
            sizes = ", ".join(map(str, IMAGE_SIZES))
            raise InputError(f"image_size must be one of {sizes}, not {self.image_size}.")
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("layer", self.layer, layer_names(self.image_size))
        least = 4 if self.similarity == "debiased-cka" else 2
        _check_range("n_learners", self.n_learners, 1, 1000)
        _check_range("epochs", self.epochs, 1, 10**6)
        _check_range("batch_size", self.batch_size, least, 10**6)
        _check_range("memory_slots", self.memory_slots, 1, 10**6)
        _check_range("seed", self.seed, 0, 2**63 - 1)
        _check_range("repulsion_weight", self.repulsion_weight, 0, 1e30)
        _check_range("shrinkage", self.shrinkage, 0, 1)
        if self.backbone == "memae" and self.memory_slots * self.shrinkage >= 1:
            raise InputError(
                f"shrinkage {self.shrinkage:g} with {self.memory_slots} memory slots sets every "
                "weight of an even mixture to 0, so that nothing is learned: keep it below "
                f"1 / memory_slots = {1 / self.memory_slots:g}."
            )
        _check_range("entropy_weight", self.entropy_weight, 0, 1e30)
        _check_range("learning_rate", self.lr, 0, 1e30, above=True)
        _check_range("beta1", self.beta1, 0, 1, below=True)
        _check_range("beta2", self.beta2, 0, 1, below=True)

    @property
    def lr(self) -> float:
        """Adam's learning rate with the backbone's default filled in."""
        if self.learning_rate is None:
            return LEARNING_RATES[self.backbone]
        return self.learning_rate

    @property
    def repels(self) -> bool:
        """Whether Eq. (4) holds a second term at all: lambda = 0 and "none" are one setting."""
        return self.repulsion_weight > 0 and self.similarity != "none" and self.n_learners > 1

    def replace(self, **changes: object) -> TrainConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, object]:
        """The effective settings as plain values: what a saved ensemble records."""
        return {**dataclasses.asdict(self), "learning_rate": self.lr}


@dataclass(frozen=True)
class ScoreConfig:
    """How an ensemble's score maps are formed. Higher scores always mean more abnormal.

    Raises:
        InputError: on an unknown value.
    """

    method: str = "dual"  # ensemble | output (Eq. 5) | dual (Eq. 6) | input (Eq. 6 without |e|)
    gradient_error: str | None = None  # L in Eq. (6); None = the first of GRADIENT_ERRORS
    normalise_error: bool = False  # |f(X) - X| min-max scaled per image, as the paper's text says

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.type)
        _check_choice("method", self.method, METHODS)
        known = tuple(dict.fromkeys(e for errors in GRADIENT_ERRORS.values() for e in errors))
        if self.gradient_error is not None:
            _check_choice("gradient_error", self.gradient_error, known)

    def gradient_error_for(self, backbone: str) -> str:
        """The error whose gradient Eq. (6) takes, checked against the backbone.

        Raises:
            InputError: if the backbone has no such error (nll needs AEU's second output).
        """
        if self.gradient_error is None:
            return GRADIENT_ERRORS[backbone][0]
        _check_choice(
            f"gradient_error of {backbone}", self.gradient_error, GRADIENT_ERRORS[backbone]
        )
        return self.gradient_error


def layer_names(image_size: int) -> tuple[str, ...]:
    """The layers whose features can be repelled, input to output: nine at 64 x 64."""
    depth = image_size.bit_length() - 3
    encoder = tuple(f"en{i}" for i in range(1, depth + 1))
    return (*encoder, "z", *(f"de{i}" for i in range(depth, 0, -1)))


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
}


def _check_type(name: str, value: object, annotation: object) -> None:
    kinds = _KINDS[str(annotation)]
    # bool is an int to Python, and True learners are none to anybody else.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise InputError(f"{name} must be of type {annotation}, not {_short(value)}.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {_short(value)}.")


def _check_range(
    name: str, value: float, low: float, high: float, *, above: bool = False, below: bool = False
) -> None:
    """Refuse what is outside [low, high]; above and below leave out that end."""
    # Comparisons alone: they hold for integers that no float can, and NaN fails them.
    inside = (low < value if above else low <= value) and (value < high if below else value <= high)
    if not inside:
        start = f"above {low:g}" if above else f"at least {low:g}"
        end = f"below {high:g}" if below else f"at most {high:g}"
        raise InputError(f"{name} must be {start} and {end}, not {_short(value)}.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
