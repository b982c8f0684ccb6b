"""Models under test: how they are named on a command line, and what a report says of them."""

import hashlib
import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from mobile_sam.core.weights import bundled_weights_path
from mobile_sam.evaluate.models import Model, ModelSpec, make_models, with_unique_names


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A file tuned.pt in the current folder; nothing reads it as weights."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tuned.pt"
    path.write_bytes(b"small")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torch", ModelSpec("torch", "torch")),
        ("onnxruntime", ModelSpec("onnxruntime", "onnxruntime")),
        ("auto", ModelSpec("auto", "auto")),
        ("tuned.pt", ModelSpec("tuned", "auto", "tuned.pt")),
        ("mobile_sam", ModelSpec("mobile_sam", "auto", "mobile_sam")),
        ("mobile_sam.pt", ModelSpec("mobile_sam", "auto", "mobile_sam.pt")),
        ("torch,tuned.pt", ModelSpec("torch-tuned", "torch", "tuned.pt")),
        ("tuned.pt,torch", ModelSpec("torch-tuned", "torch", "tuned.pt")),
        (" torch , precision = bf16 ,", ModelSpec("torch-bf16", "torch", None, None, "bf16")),
        ("device=cuda", ModelSpec("auto", "auto", None, "cuda")),
        ("name=student,checkpoint=tuned.pt", ModelSpec("student", "auto", "tuned.pt")),
        (
            "name=teacher,engine=torch,checkpoint=tuned.pt,precision=fp16,device=cuda:1",
            ModelSpec("teacher", "torch", "tuned.pt", "cuda:1", "fp16"),
        ),
    ],
)
def test_models_are_read_from_what_users_write(checkpoint, text, expected):
    assert ModelSpec.parse(text) == expected


@pytest.mark.parametrize("name", ["student", "lr=0.1/best", "tuned,again"])
def test_a_model_folder_is_a_checkpoint(checkpoint, disc_engine, name):
    (checkpoint.parent / name).mkdir(parents=True)
    checkpoint.rename(checkpoint.parent / name / "weights.safetensors")
    spec = ModelSpec.parse(name)
    assert spec == ModelSpec(Path(name).stem, "auto", name)
    facts = Model(spec, disc_engine, is_of_spec=True).facts()
    assert (facts["checkpoint"], facts["weights_sha256"]) == (Path(name).name, hashlib.sha256(b"small").hexdigest())


@pytest.mark.parametrize("name", ["lr=0.1/best.pt", "tuned,again.pt", "name=x.pt"])
def test_a_files_path_may_hold_the_signs_that_separate_keys(checkpoint, name):
    (checkpoint.parent / name).parent.mkdir(exist_ok=True)
    checkpoint.rename(checkpoint.parent / name)
    assert ModelSpec.parse(name).checkpoint == name


def test_a_path_with_an_equals_sign_may_stand_beside_other_keys(checkpoint):
    checkpoint.rename(checkpoint.parent / "lr=0.1.pt")
    for text in ("torch,lr=0.1.pt", "checkpoint=lr=0.1.pt,engine=torch"):
        assert ModelSpec.parse(text) == ModelSpec("torch-lr=0.1", "torch", "lr=0.1.pt")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, "--model '' names no model; expected an engine"),
        (" , ", ValueError, "names no model"),
        ("engin=torch", ValueError, "'engin' is unknown; expected an engine"),
        ("torch,onnxruntime", ValueError, "'engine' comes twice"),
        ("tuned.pt,checkpoint=tuned.pt", ValueError, "'checkpoint' comes twice"),
        ("name=a,name=b", ValueError, "'name' comes twice"),
        ("engine=tensorflow", ValueError, "unknown engine 'tensorflow'; expected auto, onnxruntime, openvino, torch"),
        ("precision=int4", ValueError, "unknown precision 'int4'; expected one of fp32, bf16, fp16, int8"),
        ("name=,engine=torch", ValueError, "a model needs a name"),
        ("toch", FileNotFoundError, "no checkpoint toch; .* expected an engine"),
        ("checkpoint=gone.pt", FileNotFoundError, "no checkpoint gone.pt"),
        ("checkpoint=", FileNotFoundError, "no checkpoint"),
        (".", FileNotFoundError, "no checkpoint ."),
    ],
)
def test_what_names_no_model_is_refused(checkpoint, text, error, message):
    with pytest.raises(error, match=message):
        ModelSpec.parse(text)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a-2", "a-3"]),
        (["a", "a-2", "a"], ["a", "a-2", "a-3"]),
        (["a", "a", "a-2"], ["a", "a-2", "a-2-2"]),
        ([], []),
    ],
)
def test_names_that_were_taken_are_numbered(names, expected):
    specs = [ModelSpec(name, device=str(index)) for index, name in enumerate(names)]
    named = with_unique_names(specs)
    assert [spec.name for spec in named] == expected
    assert [spec.device for spec in named] == [spec.device for spec in specs]


def test_a_spec_goes_through_json():
    spec = ModelSpec("teacher", "torch", "vit_h.pth", "cuda", "bf16")
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_checkpoint_is_named_by_the_sha256_of_its_file(checkpoint, disc_engine):
    facts = Model(ModelSpec("student", checkpoint=str(checkpoint)), disc_engine, is_of_spec=True).facts()
    assert facts["weights_sha256"] == hashlib.sha256(b"small").hexdigest()
    assert (facts["name"], facts["checkpoint"]) == ("student", "tuned.pt")


@pytest.mark.parametrize("name", [None, "mobile_sam", "mobile_sam.pt"])
def test_bundled_weights_are_named_by_the_sha256_of_the_file_in_the_wheel(disc_engine, name):
    facts = Model(ModelSpec("ours", checkpoint=name), disc_engine, is_of_spec=True).facts()
    expected = hashlib.sha256(bundled_weights_path().read_bytes()).hexdigest()
    assert (facts["checkpoint"], facts["weights_sha256"]) == ("bundled", expected)


def test_a_file_called_as_the_bundled_weights_is_not_taken_for_them(checkpoint, disc_engine):
    checkpoint.rename(checkpoint.parent / "mobile_sam.pt")
    facts = Model(ModelSpec("ours", checkpoint="mobile_sam.pt"), disc_engine, is_of_spec=True).facts()
    assert facts["weights_sha256"] == hashlib.sha256(b"small").hexdigest()


def test_facts_tell_what_computes(disc_engine):
    disc_engine.precision = "bf16"
    facts = Model(ModelSpec("disc", device="cuda"), disc_engine).facts()
    weights = {"checkpoint", "weights_sha256"}
    assert {key: value for key, value in facts.items() if key not in weights} == {
        "name": "disc",
        "engine": "disc",
        "engine_version": "",
        "precision": "bf16",
        "device": "cuda",
        "model_id": "disc",
    }


def test_an_engine_that_does_not_tell_its_precision_runs_fp32(disc_engine):
    assert Model(ModelSpec("disc"), disc_engine).facts()["precision"] == "fp32"


def test_the_device_is_the_engines_own_where_it_tells(disc_engine):
    disc_engine.device = "cuda:0"
    assert Model(ModelSpec("disc"), disc_engine).facts()["device"] == "cuda:0"


def test_embeddings_are_shared_whatever_the_name_and_the_decoder(checkpoint, disc_engine):
    model = Model(ModelSpec("disc"), disc_engine)
    other = Model(ModelSpec("other", checkpoint=str(checkpoint)), disc_engine)
    assert model.encoder_id == other.encoder_id


@pytest.mark.parametrize("changed", ["precision", "device", "engine", "weights", "package"])
def test_embeddings_are_not_shared_if_anything_else_differs(disc_engine, monkeypatch, changed):
    spec = ModelSpec("disc")
    before = Model(spec, disc_engine).encoder_id
    if changed == "precision":
        disc_engine.precision = "bf16"
    elif changed == "device":
        spec = replace(spec, device="cuda")
    elif changed == "engine":
        disc_engine.name = "onnxruntime"
    elif changed == "weights":
        disc_engine.model_id = "0123456789abcdef"
    else:
        monkeypatch.setattr("mobile_sam.evaluate.models.__version__", "0.0.0")
    assert Model(spec, disc_engine).encoder_id != before


def test_another_version_of_an_engine_does_not_share_embeddings(disc_engine, monkeypatch):
    disc_engine.name = "onnxruntime"
    model = Model(ModelSpec("disc"), disc_engine)
    before = model.encoder_id
    assert model.facts()["engine_version"] == metadata.version("onnxruntime")
    monkeypatch.setattr(metadata, "version", lambda name: "99.0")
    assert model.encoder_id != before


def test_models_are_made_with_names_of_their_own():
    models = make_models([ModelSpec.parse("onnxruntime")] * 2, num_threads=1)
    assert [model.name for model in models] == ["onnxruntime", "onnxruntime-2"]
    assert [model.engine.name for model in models] == ["onnxruntime"] * 2


def test_no_model_is_refused():
    with pytest.raises(ValueError, match="no model to evaluate; pass at least one"):
        make_models([])


def test_what_an_engine_cannot_do_is_said_when_it_is_made():
    with pytest.raises(ValueError, match="onnxruntime engine runs fp32, got precision='bf16'"):
        make_models([ModelSpec("half", "onnxruntime", precision="bf16")])


def test_an_engine_of_the_callers_own_is_not_taken_for_the_bundled_weights(disc_engine):
    facts = Model(ModelSpec("mine"), disc_engine).facts()
    assert (facts["checkpoint"], facts["weights_sha256"]) == ("the caller's", "")
    assert facts["model_id"] == "disc"
