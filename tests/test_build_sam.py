import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from mobile_sam.build_sam import (
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_t,
    build_sam_vit_t_1m,
    build_sam_vit_t_11m,
    identify_checkpoint,
    sam_from_checkpoint,
    sam_model_registry,
    save_sam,
)
from mobile_sam.core.weights import bundled_weights_path, read_metadata

TINY_NAMES = ("vit_t", "vit_t_1m", "vit_t_11m", "vit_t_21m")


@pytest.fixture(scope="module")
def weights():
    return load_file(bundled_weights_path())


def encoder_of(kind, width):
    first = "patch_embed.seq.0.c.weight" if kind == "tiny" else "patch_embed.proj.weight"
    return {f"image_encoder.{first}": torch.zeros(1), "image_encoder.neck.0.weight": torch.zeros(256, width, 1, 1)}


def test_the_registry_has_sams_names_and_the_tiny_ones():
    assert set(sam_model_registry) == {"default", "vit_h", "vit_l", "vit_b", *TINY_NAMES}
    assert sam_model_registry["default"] is build_sam is build_sam_vit_h


@pytest.mark.parametrize("name", TINY_NAMES)
def test_models_come_in_eval_with_random_weights(name):
    sam = sam_model_registry[name](checkpoint=None)
    assert not sam.training
    assert sam.image_encoder.layers[1].blocks[0].attn.qkv.weight.std() > 0.01


@pytest.mark.parametrize("name", [*TINY_NAMES, "vit_b", "vit_l", "vit_h"])
def test_a_model_recognises_its_own_state_dict(name):
    with torch.device("meta"):
        assert identify_checkpoint(sam_model_registry[name]().state_dict()) == name


@pytest.mark.parametrize("state_dict", [{}, encoder_of("tiny", 100), encoder_of("vit", 320), {"a": torch.zeros(1)}])
def test_other_state_dicts_are_not_recognised(state_dict):
    assert identify_checkpoint(state_dict) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["plain", "classifier", "model", "state_dict", "module", "safetensors", "half"])
def test_every_form_of_a_checkpoint_gives_the_same_model(weights, save, form):
    classifier = {"image_encoder.norm_head.bias": torch.zeros(320), "image_encoder.head.weight": torch.zeros(1000, 320)}
    content = {
        "plain": weights,
        "classifier": weights | classifier,
        "model": {"model": weights, "optimizer": {"state": {}, "step": 3}, "epoch": 1},
        "state_dict": {"state_dict": weights},
        "module": {"model": {f"module.{key}": value for key, value in weights.items()}},
        "safetensors": weights,
        "half": {key: value.half() if value.is_floating_point() else value for key, value in weights.items()},
    }[form]
    path = save(content, "checkpoint.safetensors" if form == "safetensors" else "checkpoint.pt")
    sam = build_sam_vit_t(checkpoint=path)
    assert not sam.training
    for key, tensor in sam.state_dict().items():
        expected = weights[key].half().float() if form == "half" and tensor.is_floating_point() else weights[key]
        assert_close(tensor, expected, rtol=0, atol=0)


@pytest.mark.parametrize("checkpoint", ["mobile_sam", "mobile_sam.pt"])
def test_the_bundled_weights_have_a_name(weights, monkeypatch, tmp_path, checkpoint):
    monkeypatch.chdir(tmp_path)
    sam = sam_model_registry["vit_t"](checkpoint=checkpoint)
    key = "mask_decoder.iou_token.weight"
    assert_close(sam.state_dict()[key], weights[key], rtol=0, atol=0)


def test_a_file_of_that_name_goes_first(monkeypatch, tmp_path, save):
    monkeypatch.chdir(tmp_path)
    save(encoder_of("vit", 1024), "mobile_sam.pt")
    with pytest.raises(ValueError, match="is a vit_l checkpoint"):
        build_sam_vit_t("mobile_sam.pt")


@pytest.mark.parametrize(
    ("build", "state_dict", "found"),
    [
        (build_sam_vit_t, encoder_of("vit", 1280), "vit_h"),
        (build_sam_vit_t, encoder_of("tiny", 448), "vit_t_11m"),
        (build_sam_vit_t_11m, encoder_of("tiny", 320), "vit_t"),
        (build_sam_vit_t, encoder_of("tiny", 128), "vit_t_1m"),
        (build_sam_vit_h, encoder_of("vit", 768), "vit_b"),
        (build_sam_vit_b, encoder_of("tiny", 320), "vit_t"),
    ],
)
def test_a_checkpoint_of_another_model_is_named_with_its_builder(save, build, state_dict, found):
    path = save(state_dict)
    with pytest.raises(ValueError, match="checkpoint") as caught:
        build(checkpoint=path)
    assert f"{path} is a {found} checkpoint" in str(caught.value)
    assert f"sam_model_registry['{found}'](checkpoint='{path}')" in str(caught.value)


def test_a_model_is_built_for_the_checkpoint_at_hand(weights, save):
    sam = sam_from_checkpoint(save(weights))
    assert identify_checkpoint(sam.state_dict()) == "vit_t"
    assert not sam.training
    with pytest.raises(ValueError, match="none of the models known here: default, vit_h"):
        sam_from_checkpoint(save({"a": torch.zeros(1)}))


def test_a_checkpoint_that_does_not_fit_lists_five_keys_at_most(weights, save):
    changed = {key: value for key, value in weights.items() if not key.startswith("prompt_encoder.")}
    changed |= {f"mask_decoder.hf_token.{index}": torch.zeros(1) for index in range(7)}
    changed["mask_decoder.iou_token.weight"] = torch.zeros(1, 128)
    with pytest.raises(ValueError, match="does not fit vit_t") as caught:
        build_sam_vit_t(save(changed))
    message = str(caught.value)
    assert "17 missing: prompt_encoder." in message
    assert "7 unexpected: mask_decoder.hf_token.0" in message
    assert "mask_decoder.hf_token.4, ..." in message
    assert "hf_token.5" not in message
    assert "1 of another shape: mask_decoder.iou_token.weight" in message


def test_a_missing_file_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.pt"):
        build_sam_vit_t(tmp_path / "nowhere.pt")


# Students: another width, another input side, files of our own


@pytest.fixture
def student():
    torch.manual_seed(0)
    return build_sam_vit_t_1m(input_side=128)


def sides_of(sam):
    prompt_encoder = sam.prompt_encoder
    return sam.image_encoder.img_size, prompt_encoder.input_image_size, prompt_encoder.image_embedding_size


@pytest.mark.parametrize(("name", "least", "most"), [("vit_t_1m", 0.9e6, 1.1e6), ("vit_t_11m", 10e6, 12e6)])
def test_students_are_called_after_the_parameters_of_their_encoder(name, least, most):
    with torch.device("meta"):
        encoder = sam_model_registry[name]().image_encoder
    assert least < sum(parameter.numel() for parameter in encoder.parameters()) < most


@pytest.mark.parametrize("name", TINY_NAMES)
def test_the_input_side_is_the_frame_of_encoder_and_prompts(name):
    with torch.device("meta"):
        assert sides_of(sam_model_registry[name]()) == (1024, (1024, 1024), (64, 64))
        sam = sam_model_registry[name](input_side=512)
        assert sides_of(sam) == (512, (512, 512), (32, 32))
        assert sam.image_encoder(torch.zeros(1, 3, 512, 512)).shape == (1, 256, 32, 32)


@pytest.mark.parametrize("side", [0, -16, 500])
def test_a_side_that_is_no_multiple_of_16_is_refused(side):
    with pytest.raises(ValueError, match=f"input_side must be a positive multiple of 16 pixels, got {side}"):
        build_sam_vit_t_1m(input_side=side)


def test_a_saved_model_comes_back_as_it_was(student, tmp_path):
    path = tmp_path / "student.safetensors"
    save_sam(student, path, name="vit_t_1m", metadata={"teacher": "vit_h", "input_side": "7"})
    assert read_metadata(path) == {
        "format": "pt", "architecture": "vit_t_1m", "input_side": "128", "teacher": "vit_h"
    }  # fmt: skip
    for sam in (sam_from_checkpoint(path), build_sam_vit_t_1m(path)):
        assert not sam.training
        assert sides_of(sam) == (128, (128, 128), (8, 8))
        assert sam.state_dict().keys() == student.state_dict().keys()
        for key, tensor in sam.state_dict().items():
            assert_close(tensor, student.state_dict()[key], rtol=0, atol=0)
    assert sides_of(build_sam_vit_t_1m(path, input_side=256)) == (256, (256, 256), (16, 16))


def test_models_are_saved_in_fp32_to_the_same_bytes_each_time(student, tmp_path):
    paths = [tmp_path / f"{number}.safetensors" for number in range(4)]
    metadata = {str(number): "é" for number in range(9)}
    for path in paths[:3]:
        save_sam(student, path, name="vit_t_1m", metadata=metadata)
    assert len({path.read_bytes() for path in paths[:3]}) == 1
    save_sam(student.half().to(memory_format=torch.channels_last), paths[3], name="vit_t_1m")
    halves = load_file(paths[3])
    assert {tensor.dtype for tensor in halves.values()} == {torch.float32, torch.int64}  # BatchNorm counts in integers
    for key, tensor in load_file(paths[0]).items():
        assert_close(halves[key], tensor.half().float() if tensor.is_floating_point() else tensor, rtol=0, atol=0)


def test_a_model_is_not_saved_under_anothers_name(student, tmp_path):
    with pytest.raises(ValueError, match="to be saved as 'vit_t' is vit_t_1m; pass its own name"):
        save_sam(student, tmp_path / "student.safetensors", name="vit_t")
    with pytest.raises(ValueError, match=r"written as \.safetensors, got .*student\.pt"):
        save_sam(student, tmp_path / "student.pt", name="vit_t_1m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "vit_t"}, "says that it holds 'vit_t', but its weights are vit_t_1m"),
        ({"architecture": "vit_xxl"}, "'vit_xxl', but its weights are vit_t_1m; known are default, vit_h"),
        ({"input_side": "big"}, "its input_side is 'big'; expected a number of pixels"),
        ({"input_side": "100"}, "input_side must be a positive multiple of 16 pixels, got 100"),
    ],
)
def test_a_file_that_says_something_unknown_of_itself_is_refused(student, tmp_path, metadata, message):
    path = tmp_path / "student.safetensors"
    save_file(student.state_dict(), path, metadata)
    for load in (sam_from_checkpoint, build_sam_vit_t_1m):
        with pytest.raises(ValueError, match=message):
            load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "licence": "Apache-2.0"}])
def test_a_file_that_says_nothing_of_itself_is_for_the_side_of_sam(student, tmp_path, metadata):
    path = tmp_path / "student.safetensors"
    save_file(student.state_dict(), path, metadata)
    assert sides_of(sam_from_checkpoint(path)) == (1024, (1024, 1024), (64, 64))
