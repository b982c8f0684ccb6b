"""Kornia's networks with the same random weights answer alike; they were written by others from the same papers."""

import warnings
from dataclasses import asdict

import pytest
import torch
from torch.testing import assert_close

from mobile_sam.build_sam import build_sam_vit_b, build_sam_vit_t
from mobile_sam.modeling import ImageEncoderViT, TinyViT
from mobile_sam.modeling.tiny_vit_sam import TINY_VIT_CONFIGS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kornia.models.sam as kornia_sam
    import kornia.models.sam.architecture.image_encoder as kornia_image_encoder
    import kornia.models.tiny_vit as kornia_tiny_vit

CLASSIFIER = ("norm_head.", "head.")


def without_classifier(state_dict):
    return {key: value for key, value in state_dict.items() if not key.startswith(CLASSIFIER)}


@pytest.mark.parametrize("size", ["5m", "11m", "21m"])
def test_tiny_vit_embeds_an_image_like_kornias(randomize, size):
    sizes = asdict(TINY_VIT_CONFIGS[size])
    ours = TinyViT(img_size=128, **sizes).eval()
    del sizes["strides"]
    theirs = kornia_tiny_vit.TinyViT(img_size=128, mobile_sam=True, **sizes).eval()
    randomize(theirs)
    ours.load_state_dict(without_classifier(theirs.state_dict()), strict=True)
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        expected = theirs(image)
        assert_close(ours(image), expected, rtol=1e-4, atol=1e-4)
        ours.layers[1].blocks[0].attn.attention_biases.zero_()
        assert (ours(image) - expected).abs().max() > 0.01  # so a difference would have been seen


def test_vit_embeds_an_image_like_kornias(randomize):
    sizes = {
        "img_size": 320, "embed_dim": 96, "depth": 3, "num_heads": 3, "out_chans": 32, "use_rel_pos": True,
        "window_size": 14, "global_attn_indexes": (1,),
    }  # fmt: skip
    ours, theirs = ImageEncoderViT(**sizes).eval(), kornia_image_encoder.ImageEncoderViT(**sizes).eval()
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(2, 3, 320, 320)
    with torch.no_grad():
        expected = theirs(image)
        assert_close(ours(image), expected, rtol=1e-4, atol=1e-4)
        ours.blocks[0].attn.rel_pos_h.zero_()
        assert (ours(image) - expected).abs().max() > 0.01


def test_vit_b_at_its_true_size_embeds_an_image_like_kornias():
    ours, theirs = (
        build_sam_vit_b().image_encoder,
        kornia_sam.Sam.from_config(kornia_sam.SamConfig("vit_b")).image_encoder,
    )
    theirs.eval().load_state_dict(ours.state_dict(), strict=True)
    image = torch.randn(1, 3, 1024, 1024)
    with torch.no_grad():
        assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def both(randomize):
    """Our MobileSAM and Kornia's, with the same random weights."""
    theirs = kornia_sam.Sam.from_config(kornia_sam.SamConfig("mobile_sam")).eval()
    ours = build_sam_vit_t()
    randomize(theirs)
    weights = theirs.state_dict()
    ours.load_state_dict({key: weights[key] for key in ours.state_dict()}, strict=True)
    return ours, theirs


PROMPTS = {
    "points": {"points": (torch.tensor([[[500.0, 375.0], [100.0, 20.0]]]), torch.tensor([[1, 0]]))},
    "padding": {"points": (torch.tensor([[[500.0, 375.0], [0.0, 0.0]]]), torch.tensor([[1, -1]]))},
    "boxes": {"boxes": torch.tensor([[75.0, 275.0, 725.0, 850.0], [425.0, 600.0, 700.0, 875.0]])},
    "both": {
        "points": (torch.tensor([[[575.0, 750.0]]]), torch.tensor([[0]])),
        "boxes": torch.tensor([[425.0, 600.0, 700.0, 875.0]]),
    },
    "mask": {
        "points": (torch.tensor([[[500.0, 375.0]]]), torch.tensor([[1]])),
        "masks": torch.linspace(-8, 8, 256 * 256).reshape(1, 1, 256, 256),
    },
    "nothing": {},
}


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("multimask_output", [True, False])
def test_prompts_give_the_masks_of_kornia(both, name, multimask_output):
    prompt = {"points": None, "boxes": None, "masks": None} | PROMPTS[name]
    embedding, answers = torch.randn(1, 256, 64, 64), []
    with torch.no_grad():
        for sam in both:
            sparse, dense = sam.prompt_encoder(**prompt)
            masks, iou = sam.mask_decoder(
                image_embeddings=embedding,
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask_output,
            )
            answers.append((sparse, dense, masks, iou))
    for ours, theirs in zip(*answers, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
