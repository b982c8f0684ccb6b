import os
import pickle

import pytest
import torch

from mobile_sam.checkpoint_files import load_state_dict_file


class RunsCode:
    """Unpickling this would call os.system."""

    def __reduce__(self):
        return os.system, ("exit 1",)


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
