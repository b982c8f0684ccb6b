"""What is trained, how fast, and when: parameter groups, the learning rate's schedule, the average of the weights."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from mobile_sam.distill.config import TrainConfig
from mobile_sam.modeling.sam import Sam
from mobile_sam.modeling.tiny_vit_sam import TinyViT, layer_lr_scales

MAX_WARMUP_SHARE = 0.1  # of a run
TABLES = ("attention_biases", "pos_embed", "rel_pos_h", "rel_pos_w")  # learnt values by place, of TinyViT and of ViT


def choose_trained(student: Sam, parts: str) -> None:
    """Let gradients flow to the parts that are trained, and to no other.

    The prompt encoder is never trained: clicks and boxes shall mean the same to every decoder.

    Args:
        student: whose `requires_grad` flags are set.
        parts: "encoder", "decoder" or "all".
    """
    student.requires_grad_(False)
    student.image_encoder.requires_grad_(parts in ("encoder", "all"))
    student.mask_decoder.requires_grad_(parts in ("decoder", "all"))


def make_optimizer(student: Sam, config: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over what is trained.

    Each group has an `lr_factor`, which `set_lr` multiplies the schedule with. Decayed are matrices and kernels;
    biases, normalisations, tokens, and tables of positions or attention biases are not.
    """
    encoder_scales = (
        layer_lr_scales(student.image_encoder, config.layer_lr_decay)
        if isinstance(student.image_encoder, TinyViT)
        else {}
    )
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        part, _, rest = name.partition(".")
        factor = config.encoder_lr_factor * encoder_scales.get(rest, 1.0) if part == "image_encoder" else 1.0
        is_decayed = parameter.ndim >= 2 and not name.endswith(TABLES) and "token" not in name.split(".")[1]
        groups[factor, is_decayed].append(parameter)
    if not groups:
        raise ValueError("nothing is trained; let config.trains name a part of the model")
    return torch.optim.AdamW(
        [
            {"params": params, "lr_factor": factor, "weight_decay": config.weight_decay if is_decayed else 0.0}
            for (factor, is_decayed), params in groups.items()
        ],
        lr=config.lr,
        betas=config.betas,
    )


def lr_at(step: int, num_steps: int, config: TrainConfig) -> float:
    """Learning rate of a step: a linear warm-up, then half a cosine down to `min_lr_factor` at the last step.

    Args:
        step: from 0.
        num_steps: of the whole run.
        config: of the run.
    """
    warmup_steps = min(config.warmup_steps, int(num_steps * MAX_WARMUP_SHARE))
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(num_steps - 1 - warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.lr * (config.min_lr_factor + (1 - config.min_lr_factor) * cosine)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


class MovingAverage:
    """Exponential moving average of a model's weights and BatchNorm statistics: what is validated and kept.

    The decay grows as (1 + step) / (10 + step) up to its limit, so that the first, random weights are soon forgotten.

    Args:
        model: its state at the start.
        decay: the limit; 0 follows the model exactly.
    """

    def __init__(self, model: Sam, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Sam, step: int) -> None:
        """Take in the model as it is after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = [pair for pair in self._pairs(model) if pair[0].is_floating_point()]
        averages, values = [list(tensors) for tensors in zip(*pairs, strict=True)]
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in self._pairs(model):
            if not average.is_floating_point():
                average.copy_(value)

    def _pairs(self, model: Sam) -> Iterator[tuple[Tensor, Tensor]]:
        """All tensors of both, without the names that `state_dict` takes long to make."""
        mine, theirs = (chain(one.parameters(), one.buffers()) for one in (self.model, model))
        return zip(mine, theirs, strict=True)
