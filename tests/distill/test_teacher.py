"""The model that is imitated: official files load, and it says what the engines say."""

import json
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.testing import assert_close

from mobile_sam.build_sam import build_sam_vit_b, build_sam_vit_t_1m, sam_model_registry, save_sam
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.images import read_image
from mobile_sam.core.weights import BUNDLED, sha256_of_file
from mobile_sam.distill.teacher import Teacher
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.modeling.image_encoder import VIT_CONFIGS, ViTConfig

SIDE = 64


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small model that says it takes 64 px."""
    path = tmp_path_factory.mktemp("teacher") / "small.safetensors"
    torch.manual_seed(0)
    save_sam(build_sam_vit_t_1m(input_side=SIDE), path, name="vit_t_1m")
    return path


@pytest.fixture(scope="module")
def teacher(checkpoint):
    return Teacher(checkpoint, device="cpu")


@pytest.fixture
def shallow_vit_b(monkeypatch):
    """SAM ViT-B of its true width with two blocks instead of twelve, so that a file of it takes a moment."""
    monkeypatch.setitem(VIT_CONFIGS, "vit_b", ViTConfig(768, depth=2, num_heads=12, global_attn_indexes=(1,)))


@pytest.fixture
def official_file(tmp_path, shallow_vit_b, randomize_all):
    """A file as Segment Anything publishes them: a bare state dict in a .pth."""
    path = tmp_path / "sam_vit_b_made_up.pth"
    torch.save(randomize_all(build_sam_vit_b()).state_dict(), path)
    return path


@pytest.fixture
def randomize_all():
    def randomize(module):
        generator = torch.Generator().manual_seed(0)
        for tensor in module.state_dict().values():
            if tensor.ndim > 1:  # relative positions start at zero, and would not matter
                tensor.normal_(0.0, tensor[0].numel() ** -0.5, generator=generator)
        return module

    return randomize


def test_a_teacher_is_frozen_and_in_eval(teacher):
    assert not teacher.sam.training
    assert not any(parameter.requires_grad for parameter in teacher.sam.parameters())


def test_a_teacher_is_on_record(teacher, checkpoint):
    record = teacher.record
    assert (record.name, record.input_side, record.precision) == ("vit_t_1m", SIDE, "fp32")
    assert record.weights_sha256 == sha256_of_file(checkpoint)
    assert record.model_id == TorchEngine(checkpoint, device="cpu").model_id
    assert record.feature_shape == (256, SIDE // 16, SIDE // 16)


def test_pictures_of_any_sizes_are_encoded_as_the_engine_does(teacher):
    images = [image(40, 90), image(300, 20, 1), image(64, 64, 2), image(1, 7, 3)]
    found = teacher.encode(images)
    for one, expected in zip(found, teacher.engine.encode(images), strict=True):
        assert one.features.dtype == torch.float32
        assert_allclose(one.features.numpy(), expected.features[0], atol=1e-5)
        assert (one.image_hw, one.input_hw) == (expected.image_hw, expected.input_hw)
    assert teacher.encode([]) == []


def test_channels_are_given_in_the_order_the_encoder_was_trained_with(checkpoint):
    teacher = Teacher(checkpoint, device="cpu")
    teacher.sam.image_format = "BGR"
    picture = image(64, 48)
    assert_allclose(teacher.encode([picture])[0].features, teacher.engine.encode([picture])[0].features[0], atol=1e-5)


def test_half_precision_is_near_and_on_record(teacher, checkpoint):
    rounded = Teacher(checkpoint, device="cpu", precision="bf16")
    pictures = [image(50, 64)]
    found, expected = (one.encode(pictures)[0].features for one in (rounded, teacher))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert_close(found, expected, rtol=0, atol=0.1 * expected.std().item())
    assert rounded.record.differences(teacher.record) == ["precision is bf16 here, fp32 there"]


def test_the_bundled_model_is_a_teacher(official, examples):
    """Against embeddings of the original implementation, for the pictures of tests/fixtures/parity."""
    teacher = Teacher("mobile_sam", device="cpu")
    assert (teacher.record.name, teacher.record.weights_sha256) == ("vit_t", BUNDLED.file_sha256)
    (found,) = teacher.encode([read_image(official.picture)])
    assert_allclose(found.features[None, :, ::4, ::4], official.embedding, atol=2e-3)


def test_an_official_file_of_sams_vit_encodes(official_file):
    teacher = Teacher(official_file, device="cpu")
    assert (teacher.record.name, teacher.record.input_side) == ("vit_b", 1024)
    assert teacher.record.weights_sha256 == sha256_of_file(official_file)
    picture = image(600, 800)
    resize = LongSideResize((600, 800))
    pixels = torch.from_numpy(resize.resize_image(picture)).permute(2, 0, 1).float()
    with torch.no_grad():  # as Sam.forward does it
        expected = teacher.sam.image_encoder(teacher.sam.preprocess(pixels)[None])[0]
    (found,) = teacher.encode([picture])
    assert_close(found.features, expected, rtol=1e-4, atol=1e-4)
    assert (found.image_hw, found.input_hw) == ((600, 800), (768, 1024))


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_names_and_shapes_are_those_of_the_official_files(name):
    """Kornia loads the official files into these; the largest has 2.5 GB, so shapes only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kornia.models.sam as kornia_sam
    with torch.device("meta"):
        ours = sam_model_registry[name]().state_dict()
        theirs = kornia_sam.Sam.from_config(kornia_sam.SamConfig(name)).state_dict()
    buffers = {"pixel_mean", "pixel_std"} & (theirs.keys() ^ ours.keys())  # in no official file
    assert {key: value.shape for key, value in ours.items() if key not in buffers} == {
        key: value.shape for key, value in theirs.items() if key not in buffers
    }


def test_what_is_no_checkpoint_is_no_teacher(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Teacher(tmp_path / "sam_vit_h_4b8939.pth")
    page = tmp_path / "page.pth"
    page.write_text(json.dumps({"not": "weights"}))
    with pytest.raises(ValueError, match="not a PyTorch checkpoint"):
        Teacher(page)
