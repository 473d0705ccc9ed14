"""Settings: the paper's by default, and every meaningless value refused by name."""

import dataclasses
import json

import numpy as np
import pytest

from d2ue.config import (
    BACKBONES,
    GRADIENT_ERRORS,
    LEARNING_RATES,
    METHODS,
    ScoreConfig,
    TrainConfig,
    layer_names,
)
from d2ue.errors import InputError
from d2ue.similarity import SIMILARITIES


def test_defaults_are_the_papers():
    """Section 3, "Implementation Details", and the released configuration files."""
    assert dataclasses.asdict(TrainConfig(backbone="ae")) == {
        "backbone": "ae",
        "n_learners": 3,  # Section 3
        "similarity": "cka",  # Eq. (2)
        "repulsion_weight": 1.0,  # Eq. (4), Section 3
        "layer": "z",  # released code: layer index 4
        "epochs": 250,  # Section 3
        "batch_size": 64,  # Section 3
        "learning_rate": None,
        "beta1": 0.5,  # released code
        "beta2": 0.999,
        "image_size": 64,  # Section 3
        "seed": 0,
        "memory_slots": 25,  # released configuration
        "shrinkage": 0.0025,  # released code, whose configuration is never read
        "entropy_weight": 2e-4,  # released code, as Gong et al. 2019
        "precision": "float32",
    }
    assert dataclasses.asdict(ScoreConfig()) == {
        "method": "dual",  # Eq. (6)
        "gradient_error": None,
        "normalise_error": False,  # released code
    }


def test_gradients_are_the_released_codes_by_default():
    """L1 for AE and MemAE, exp(-s) r² for AEU; the options of the paper-against-code table."""
    plain = "l1", "mse"
    assert {"ae": plain, "memae": plain, "aeu": ("weighted-mse", "nll")} == GRADIENT_ERRORS
    for backbone, (first, other) in GRADIENT_ERRORS.items():
        assert ScoreConfig().gradient_error_for(backbone) == first
        assert ScoreConfig(gradient_error=other).gradient_error_for(backbone) == other


def test_layers_are_named_from_input_to_output():
    nine = ("en1", "en2", "en3", "en4", "z", "de4", "de3", "de2", "de1")
    assert layer_names(64) == nine
    assert layer_names(16) == ("en1", "en2", "z", "de2", "de1")
    assert len(layer_names(128)) == 11


NOT_A_NUMBER = [float("nan"), float("inf"), "1", True, 10**400]
BAD = {
    "backbone": ["AE", None, ["ae"]],
    "n_learners": [0, 2.0, *NOT_A_NUMBER],
    "similarity": ["CKA", None],
    "repulsion_weight": [-0.1, *NOT_A_NUMBER],
    "layer": ["en0", "de5", 4],
    "epochs": [0, None],
    "batch_size": [1, -1],
    "learning_rate": [0, -1e-3, *NOT_A_NUMBER],
    "beta1": [-0.1, 1.0],
    "beta2": [1, True],
    "image_size": [8, 63, -64],
    "seed": [-1, 2**63, 0.5],
    "memory_slots": [0, 1.5],
    "shrinkage": [-0.1, float("nan")],
    "entropy_weight": [-0.1, "1"],
    "precision": ["float64", 16],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD.items() for value in values],
    ids=lambda x: repr(x)[:20],
)
def test_meaningless_values_are_refused_by_name(refused, field, value):
    assert BAD.keys() == {f.name for f in dataclasses.fields(TrainConfig)}
    with refused(field):
        TrainConfig(backbone="ae").replace(**{field: value})


def test_a_refusal_names_the_choices(refused):
    for field, choices in (
        ("backbone", BACKBONES),
        ("similarity", SIMILARITIES),
        ("layer", layer_names(64)),
    ):
        with refused(field, *choices, "'telepathy'"):
            TrainConfig(**{field: "telepathy"})
    with refused("method", *METHODS, "'telepathy'"):
        ScoreConfig("telepathy")


def test_a_layer_must_be_one_of_its_size(refused):
    with refused("layer", "en1, en2, z, de2, de1"):
        TrainConfig(backbone="ae", image_size=16, layer="en3")


def test_debiased_cka_needs_batches_of_four(refused):
    with refused("batch_size", 4):
        TrainConfig(backbone="ae", similarity="debiased-cka", batch_size=3)
    assert TrainConfig(backbone="ae", similarity="debiased-cka", batch_size=4).repels


def test_meaningless_scores(refused):
    for field, values in {
        "method": ["Dual", None, ["dual"]],
        "gradient_error": ["l2", True],
        "normalise_error": ["yes", 1, None],
    }.items():
        for value in values:
            with refused(field):
                ScoreConfig(**{field: value})


def test_gradients_that_the_backbone_has_not(refused):
    for backbone, error in (("ae", "nll"), ("memae", "weighted-mse"), ("aeu", "mse")):
        with refused(backbone, error, *GRADIENT_ERRORS[backbone]):
            ScoreConfig(gradient_error=error).gradient_error_for(backbone)


def test_when_anything_is_repelled():
    assert TrainConfig(backbone="ae").repels
    for change in ({"repulsion_weight": 0}, {"similarity": "none"}, {"n_learners": 1}):
        assert not TrainConfig(**change).repels


def test_settings_are_values():
    config = TrainConfig(backbone="ae", seed=3)
    assert config == TrainConfig(backbone="ae", seed=3) and hash(config) == hash(
        TrainConfig(backbone="ae", seed=3)
    )
    assert config.replace(seed=4) == TrainConfig(backbone="ae", seed=4) and config.seed == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 5
    assert TrainConfig(**config.as_dict()).as_dict() == config.as_dict()


def test_a_config_read_back_is_the_config_that_was_saved():
    for backbone in BACKBONES:
        config = TrainConfig(backbone=backbone, epochs=3)
        saved = json.loads(json.dumps(config.as_dict()))
        assert saved["learning_rate"] == LEARNING_RATES[backbone]
        assert TrainConfig(**saved) == config
    assert TrainConfig(**TrainConfig(backbone="ae").as_dict()).replace(backbone="aeu").lr == 1e-3
    assert TrainConfig(backbone="ae", learning_rate=3e-4).replace(backbone="aeu").lr == 3e-4


def test_numbers_of_numpy_are_numbers():
    config = TrainConfig(
        backbone="ae", epochs=np.int64(3), seed=np.uint8(4), repulsion_weight=np.float64(0.5)
    )
    assert config == TrainConfig(backbone="ae", epochs=3, seed=4, repulsion_weight=0.5)
    json.dumps(config.as_dict())
    with pytest.raises(InputError, match="n_learners"):
        TrainConfig(backbone="ae", n_learners=np.bool_(True))


def test_a_memory_that_shrinks_to_nothing_is_refused(refused):
    for slots, shrinkage in ((400, 0.0025), (25, 0.04)):
        with refused("memory"):
            TrainConfig(backbone="memae", memory_slots=slots, shrinkage=shrinkage)
        TrainConfig(backbone="ae", memory_slots=slots, shrinkage=shrinkage)  # of no effect there
