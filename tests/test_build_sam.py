import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from mobile_sam.build_sam import (
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_t,
    build_sam_vit_t_11m,
    identify_checkpoint,
    load_state_dict_file,
    sam_from_checkpoint,
    sam_model_registry,
)
from mobile_sam.core.weights import bundled_weights_path


class RunsCode:
    """Unpickling this would call os.system."""

    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.fixture(scope="module")
def weights():
    return load_file(bundled_weights_path())


@pytest.fixture
def save(tmp_path):
    def save_as(content, name="checkpoint.pt"):
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
        return path

    return save_as


def encoder_of(kind, width):
    first = "patch_embed.seq.0.c.weight" if kind == "tiny" else "patch_embed.proj.weight"
    return {f"image_encoder.{first}": torch.zeros(1), "image_encoder.neck.0.weight": torch.zeros(256, width, 1, 1)}


def test_the_registry_has_sams_names_and_the_tiny_ones():
    assert set(sam_model_registry) == {"default", "vit_h", "vit_l", "vit_b", "vit_t", "vit_t_11m", "vit_t_21m"}
    assert sam_model_registry["default"] is build_sam is build_sam_vit_h


@pytest.mark.parametrize("name", ["vit_t", "vit_t_11m", "vit_t_21m"])
def test_models_come_in_eval_with_random_weights(name):
    sam = sam_model_registry[name](checkpoint=None)
    assert not sam.training
    assert sam.image_encoder.layers[1].blocks[0].attn.qkv.weight.std() > 0.01


@pytest.mark.parametrize("name", ["vit_t", "vit_t_11m", "vit_t_21m", "vit_b", "vit_l", "vit_h"])
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


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n", bytes(99)]
)
def test_files_that_are_no_checkpoints_are_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="download it again") as caught:
        load_state_dict_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.safetensors"])
@pytest.mark.parametrize("kept", [0.1, 0.6, 0.99])
@pytest.mark.parametrize("side", [2, 50])
def test_truncated_files_are_refused(save, name, kept, side):
    path = save({"a": torch.randn(side, side)}, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="download it again"):
        load_state_dict_file(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_refused(tmp_path, save):
    path = tmp_path / "code.pt"
    path.write_bytes(pickle.dumps({"model": RunsCode()}))
    for refused in (path, save({"model": RunsCode()})):
        with pytest.raises(ValueError, match="not a PyTorch checkpoint of tensors"):
            load_state_dict_file(refused)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": 3}, {"epoch": 1}, {1: torch.zeros(1)}, torch.zeros(3)])
def test_files_without_a_state_dict_are_refused(save, content):
    with pytest.raises(ValueError, match="holds no state dict"):
        load_state_dict_file(save(content))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        load_state_dict_file(tmp_path)


def test_flipped_bytes_inside_a_checkpoint_are_noticed(tmp_path):
    """torch.load does not look at the checksums of the archive, so the weights would be silently wrong."""
    path = tmp_path / "damaged.pt"
    torch.save({"image_encoder.neck.0.weight": torch.arange(50_000.0)}, path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.pt is damaged: the checksum of .* inside it is wrong"):
        load_state_dict_file(path)
