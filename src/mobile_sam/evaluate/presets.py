"""Protocols by name: ours, and those of papers as far as their code or text tells them.

What a paper's published numbers mean can only be compared with a protocol that follows its choices. Where a choice
differs here, or was never published, `source` says so, and so does every report.
"""

from __future__ import annotations

from collections.abc import Sequence

from mobile_sam.evaluate.everything_protocol import EverythingProtocol
from mobile_sam.evaluate.protocols import AgreementProtocol, PromptsProtocol
from mobile_sam.everything.config import EverythingConfig

_EDGESAM = (
    "EdgeSAM (arXiv 2312.06660; its evaluation/eval_mIoU.py): first mask token, two more points drawn from the error, "
    "mask not fed back. Differs: the centre is the exact Euclidean one, errors are drawn at the picture's size and not "
    "at 256 x 256, the truth is not resampled to the model's frame and back."
)
_EFFICIENTSAM = (
    "After EfficientSAM (arXiv 2312.00863), whose evaluation code is not public: random points in the mask, the most "
    "confident of three. That later points are drawn from the object, and not from the error, is a guess."
)
_NANOSAM = (
    "NanoSAM (nanosam/tools/eval_coco.py): annotated box, the most confident of all four masks, crowds included. "
    "Differs: resizing follows SAM; an area of exactly 32^2 or 96^2 falls in one bin, not in two."
)
_SLIMSAM = (
    "SlimSAM (arXiv 2312.05284; its validation loop): SA-1B's own click, first mask token. Its mean is "
    "that of the pictures' means: the column 'by picture'."
)
_EFFICIENTVIT = (
    "EfficientViT-SAM (arXiv 2402.05008; eval_efficientvit_sam_model.py): the most confident of three masks for boxes "
    "and for every number of clicks, next click where the error is deepest, mask not fed back, crowds included. "
    "Differs: a pixel can be clicked twice; an area of exactly 32^2 or 96^2 falls in one bin, not in two."
)
_SAM = (
    "Segment Anything (arXiv 2304.02643, appendix D.1): the most confident mask for one click, the single one for "
    "more, next click where the error is deepest. Whether the mask is fed back is not published; here it is."
)
_TABLE_7 = (
    "After MobileSAM (arXiv 2306.14289), table 7: one foreground and one background point at a distance. Where they "
    "lie, which mask is taken and in which pictures was not published: here random positions, the single mask."
)

_MOBILESAMV2 = (
    "After MobileSAMv2 (arXiv 2312.09579), mask AR@1000 of 100 pictures of LVIS: a grid of 32 x 32 points, all three "
    "masks of each, none left out for its score. Differs: which 100 pictures, whether and how masks that resemble each "
    "other were left out, and what they were ranked by was not published; here box NMS at 0.7, SAM's default, and the "
    "predicted IoU."
)

PROMPTS_PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        PromptsProtocol("box-single"),
        PromptsProtocol("box-best", mask_rule="best"),
        PromptsProtocol("box-oracle", mask_rule="oracle"),
        PromptsProtocol("centre-single", first_prompt="centre"),
        PromptsProtocol("centre-best", first_prompt="centre", mask_rule="best"),
        PromptsProtocol("centre-oracle", first_prompt="centre", mask_rule="oracle"),
        PromptsProtocol("random-single", first_prompt="random"),
        PromptsProtocol("random-best", first_prompt="random", mask_rule="best"),
        PromptsProtocol("random-oracle", first_prompt="random", mask_rule="oracle"),
        PromptsProtocol("clicks", first_prompt="centre", mask_rule="best", num_clicks=4),
        PromptsProtocol("edgesam-box", _EDGESAM, "box", num_clicks=2, next_click="random-error", feeds_mask=False),
        PromptsProtocol("edgesam-point", _EDGESAM, "centre", num_clicks=2, next_click="random-error", feeds_mask=False),
        PromptsProtocol("efficientsam-box", _EFFICIENTSAM, "box", "best"),
        PromptsProtocol(
            "efficientsam-point", _EFFICIENTSAM, "random", "best", num_clicks=2, next_click="random-object",
            later_mask_rule="best", feeds_mask=False, report_steps=(1, 3),
        ),
        PromptsProtocol("nanosam", _NANOSAM, "box", "best-of-four", crowd="include"),
        PromptsProtocol("slimsam", _SLIMSAM, "annotated"),
        PromptsProtocol("efficientvit-box", _EFFICIENTVIT, "box", "best", crowd="include"),
        PromptsProtocol(
            "efficientvit-point", _EFFICIENTVIT, "centre", "best", num_clicks=4, next_click="farthest-error",
            later_mask_rule="best", feeds_mask=False, crowd="include",
        ),
        PromptsProtocol(
            "sam-clicks", _SAM, "centre", "best", num_clicks=8, next_click="farthest-error",
            report_steps=(1, 2, 3, 5, 9),
        ),
        PromptsProtocol("sam-oracle", _SAM, "centre", "oracle"),
    )
}  # fmt: skip
"""Protocols against ground truth, by name."""

PROMPTS_GROUPS = {
    "default": ("box-single", "box-best", "centre-single", "centre-best", "centre-oracle", "random-best", "clicks"),
    "edgesam": ("edgesam-box", "edgesam-point"),
    "efficientsam": ("efficientsam-box", "efficientsam-point"),
    "efficientvit": ("efficientvit-box", "efficientvit-point"),
    "sam": ("sam-clicks", "sam-oracle"),
}
"""Several protocols under one name."""

AGREEMENT_PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        AgreementProtocol("grid", num_prompts=5),
        AgreementProtocol("random", prompts="random", num_prompts=16),
        AgreementProtocol("box", prompts="box", mask_rule="single"),
        AgreementProtocol("centre", prompts="centre"),
        AgreementProtocol("given", prompts="given"),
        *(
            AgreementProtocol(f"pair-{distance_px}", _TABLE_7, "pair", 4, distance_px, "single")
            for distance_px in (100, 200, 300, 400, 500)
        ),
    )
}
"""Protocols that compare models, by name."""

AGREEMENT_GROUPS = {
    "default": ("grid", "random"),
    "pairs": ("pair-100", "pair-200", "pair-300", "pair-400", "pair-500"),
}
"""Several protocols under one name."""

EVERYTHING_PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        EverythingProtocol("exact", config=EverythingConfig(mode="exact")),
        EverythingProtocol("fast", config=EverythingConfig(mode="fast")),
        EverythingProtocol(
            "mobilesamv2", _MOBILESAMV2, EverythingConfig(pred_iou_thresh=0.0, stability_score_thresh=0.0)
        ),
    )
}
"""Ways to segment everything, by name; exact is SAM's with its defaults."""

EVERYTHING_GROUPS: dict[str, tuple[str, ...]] = {"default": ("exact", "fast")}
"""Several protocols under one name."""


def prompts_protocols(names: Sequence[str]) -> list[PromptsProtocol]:
    """Return the protocols that names of protocols or of groups stand for, each once.

    Raises:
        ValueError: an unknown name.

    >>> [protocol.name for protocol in prompts_protocols(["edgesam", "edgesam-box", "nanosam"])]
    ['edgesam-box', 'edgesam-point', 'nanosam']
    """
    return [PROMPTS_PROTOCOLS[name] for name in _expand(names, tuple(PROMPTS_PROTOCOLS), PROMPTS_GROUPS)]


def agreement_protocols(names: Sequence[str]) -> list[AgreementProtocol]:
    """Return the protocols that names of protocols or of groups stand for, each once.

    Raises:
        ValueError: an unknown name.
    """
    return [AGREEMENT_PROTOCOLS[name] for name in _expand(names, tuple(AGREEMENT_PROTOCOLS), AGREEMENT_GROUPS)]


def everything_protocols(names: Sequence[str]) -> list[EverythingProtocol]:
    """Return the protocols that names of protocols or of groups stand for, each once.

    Raises:
        ValueError: an unknown name.
    """
    return [EVERYTHING_PROTOCOLS[name] for name in _expand(names, tuple(EVERYTHING_PROTOCOLS), EVERYTHING_GROUPS)]


def _expand(names: Sequence[str], known: tuple[str, ...], groups: dict[str, tuple[str, ...]]) -> list[str]:
    wanted: list[str] = []
    for name in names:
        if name not in known and name not in groups:
            raise ValueError(f"unknown protocol {name!r}; expected one of {', '.join((*groups, *known))}")
        wanted += groups.get(name, (name,))
    return list(dict.fromkeys(wanted))
