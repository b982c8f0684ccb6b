"""Settings of a run: each wrong one is named, a typo is put right, and JSON brings them back."""

import json
import math
from dataclasses import fields

import pytest

from mobile_sam.distill.config import TrainConfig, parse_settings

WRONG = {
    "data": "a.tar", "fraction": 1.5, "data_seed": -1, "held_out": ["a.tar"], "num_held_out": 0, "num_workers": -1,
    "max_skipped": -0.1,
    "teacher": None, "embeddings": 3, "student": 5, "input_side": 100, "start_from": None, "decoder_from": 1,
    "match_channels": 0, "drop_path_rate": 1.0, "objective": "decopled", "trains": "neck", "mask_targets": "labels",
    "prompts_per_picture": 0, "num_clicks": -1, "box_rate": 1.01, "epochs": 0, "max_steps": -5, "batch_size": 0,
    "accumulate": 0, "lr": 0.0, "min_lr_factor": -0.01, "warmup_steps": -1, "weight_decay": -1, "betas": (0.9, 1.0),
    "clip_norm": math.inf, "encoder_lr_factor": 0, "layer_lr_decay": 1.1, "ema_decay": 1.0, "freeze_batchnorm": 1,
    "device": 0, "precision": "fp16", "channels_last": "yes", "compile": 0, "sync_batchnorm": None, "num_threads": -1,
    "embedding_cache_gb": -0.5, "seed": -1, "log_every": 0, "checkpoint_every": 0, "keep_checkpoints": 0,
    "validate_every": 0, "patience": -1,
    "tensorboard": 1, "diverged_factor": 1.0,
}  # fmt: skip


def test_a_wrong_value_is_listed_for_every_setting():
    assert list(WRONG) == [known.name for known in fields(TrainConfig)]


@pytest.mark.parametrize(("name", "value"), WRONG.items(), ids=WRONG)
def test_a_wrong_value_names_its_setting_and_itself(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got ") as raised:
        TrainConfig(**{name: value})
    assert repr(value) in str(raised.value) or str(float(value)) in str(raised.value)


@pytest.mark.parametrize("name", [known.name for known in fields(TrainConfig) if isinstance(known.default, float)])
def test_nan_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be .*, got nan"):
        TrainConfig(**{name: math.nan})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 8, "accumulate": 3}, "batch_size 8 cannot be taken in accumulate=3"),
        ({"trains": "all"}, "objective 'decoupled' trains the encoder alone, got trains='all'"),
        ({"mask_targets": "annotations"}, "mask_targets 'annotations' goes with objective 'prompted'"),
        ({"betas": (0.9,)}, "betas must be a value of type tuple"),
        ({"lr": True}, "lr must be a value of type float, got True"),
        ({"seed": 1.0}, "seed must be a value of type int, got 1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("typo", "meant"), [("batchsize", "batch_size"), ("ema_dekay", "ema_decay"), ("epoch", "epochs")]
)
def test_a_typo_is_put_right(typo, meant):
    with pytest.raises(ValueError, match=rf"no setting '{typo}'; did you mean '{meant}'\?"):
        TrainConfig.from_mapping({typo: 1})


def test_a_name_like_no_other_lists_the_settings():
    with pytest.raises(ValueError, match="no setting 'zzz'; expected one of data, fraction, "):
        TrainConfig().with_values({"zzz": 1})


def test_whole_numbers_stand_for_floats():
    assert TrainConfig(lr=1) == TrainConfig(lr=1.0)
    assert type(TrainConfig(lr=1).lr) is float


def test_json_brings_a_configuration_back():
    config = TrainConfig(
        data=("a.tar", "b"), objective="prompted", mask_targets="annotations", betas=(0.8, 0.9), compile=True, lr=3e-4
    )
    assert TrainConfig.from_mapping(json.loads(json.dumps(config.to_json()))) == config


def test_other_values_leave_the_rest():
    config = TrainConfig(lr=0.5, seed=3)
    changed = config.with_values({"lr": 0.25})
    assert (changed.lr, changed.seed) == (0.25, 3)
    assert config.lr == 0.5
    with pytest.raises(ValueError, match="lr must be"):
        config.with_values({"lr": -1})


def test_differences_name_both_values():
    config = TrainConfig(lr=0.5, seed=3)
    assert config.differences(config) == []
    assert config.differences(TrainConfig(lr=0.25, seed=3, student="vit_t_1m")) == [
        "student: 'vit_t' here, 'vit_t_1m' there",
        "lr: 0.5 here, 0.25 there",
    ]


@pytest.mark.parametrize(
    ("changes", "parts", "needs_teacher", "draws_prompts"),
    [
        ({}, "encoder", True, False),
        ({"objective": "semi-coupled"}, "encoder", True, True),
        ({"objective": "coupled"}, "all", True, True),
        ({"objective": "coupled", "trains": "decoder"}, "decoder", True, True),
        ({"objective": "prompted"}, "all", True, True),
        ({"objective": "prompted", "mask_targets": "annotations"}, "all", False, True),
    ],
)
def test_what_follows_from_the_objective(changes, parts, needs_teacher, draws_prompts):
    config = TrainConfig(**changes)
    assert (config.parts, config.needs_teacher, config.draws_prompts) == (parts, needs_teacher, draws_prompts)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr=3e-4", 3e-4),
        ("epochs=2", 2.0),
        (" batch_size = 16 ", 16),
        ("compile=True", True),
        ("tensorboard=no", False),
        ("data=a.tar, b=c.tar", ("a.tar", "b=c.tar")),
        ("data=", ()),
        ("betas=0.8,0.99", (0.8, 0.99)),
        ("embeddings=", ""),
    ],
)
def test_settings_are_read_as_their_fields_types(text, value):
    (found,) = parse_settings([text]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr", "--set 'lr' has no '='"),
        ("learning_rate=1", "no setting 'learning_rate'"),
        ("lr=fast", "lr must be of type float, got 'fast'"),
        ("batch_size=1e3", "batch_size must be of type int, got '1e3'"),
        ("compile=maybe", "compile must be of type bool, got 'maybe'"),
        ("betas=0.9,x", r"betas must be of type tuple\[float, float\], got '0.9,x'"),
    ],
)
def test_settings_that_cannot_be_read_are_named(text, words):
    with pytest.raises(ValueError, match=words):
        parse_settings([text])


def test_the_last_of_two_settings_counts():
    assert parse_settings(["lr=1", "lr=2"]) == {"lr": 2.0}


def test_every_setting_says_what_it_is():
    assert all(len(known.metadata["help"]) > 4 for known in fields(TrainConfig))
