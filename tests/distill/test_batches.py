"""Batches: pictures as the model sees them, and their way to a device."""

import torch
from numpy.testing import assert_allclose
from torch.utils.data._utils.pin_memory import pin_memory

from mobile_sam.build_sam import sam_model_registry
from mobile_sam.distill.batches import Batch, PromptTargets, normalised


def test_pictures_are_normalised_as_the_model_does_itself():
    sam = sam_model_registry["vit_t_1m"](input_side=64)
    sizes_hw = [(64, 40), (17, 64), (64, 64)]
    images, expected = torch.zeros(3, 3, 64, 64, dtype=torch.uint8), []
    for row, (height, width) in enumerate(sizes_hw):
        picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        images[row, :, :height, :width] = picture
        expected.append(sam.preprocess(picture))
    found = normalised(images, torch.tensor(sizes_hw), sam.pixel_mean, sam.pixel_std)
    assert_allclose(found, torch.stack([one.reshape(3, 64, 64) for one in expected]), atol=1e-6)


def test_the_padding_is_zero_whatever_is_in_it():
    images = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    found = normalised(images, torch.tensor([[10, 32]]), torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    assert (found[:, :, :10] == 255).all()
    assert not found[:, :, 10:].any()


def test_all_of_a_batch_moves_but_for_the_seeds():
    prompts = PromptTargets(
        torch.zeros(1, 2, 2), torch.zeros(1, 2, 4), torch.zeros(1, 2, 16, 16, dtype=torch.bool),
        torch.ones(1, 2, dtype=torch.bool), torch.tensor([5]),
    )  # fmt: skip
    batch = Batch(
        ("a",), torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]]), torch.zeros(1, 256, 4, 4),
        prompts, torch.zeros(1, 3, 128, 128, dtype=torch.uint8), torch.tensor([[128, 128]]),
    ).to(torch.device("meta"))  # fmt: skip
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    tensors += [value for name, value in vars(batch.prompts).items() if name != "seeds"]
    assert len(tensors) == 9
    assert all(tensor.is_meta for tensor in tensors)
    assert batch.prompts.seeds.tolist() == [5]
    assert batch.keys == ("a",)


def test_what_a_batch_lacks_it_lacks_after_the_move():
    batch = Batch(("a",), torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]]))
    moved = batch.to(torch.device("meta"))
    assert (moved.teacher_features, moved.prompts, moved.teacher_images, moved.teacher_input_hw) == (None,) * 4


def test_all_of_a_batch_is_pinned_by_the_loader(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    prompts = PromptTargets(*(torch.zeros(1) for _ in range(5)))
    batch = Batch(("a",), torch.zeros(1), torch.zeros(1), torch.zeros(1), prompts)
    moved, errors = pin_memory((batch, [ValueError("a")]))
    assert len(pinned) == 8
    assert (moved.keys, moved.teacher_images, len(errors)) == (("a",), None, 1)
