"""The choices of the `everything` protocol: how masks are made, how they are ranked, and what counts as found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mobile_sam.evaluate.protocols import COCO_BINS, AreaBin, Config, check_bins, check_choice, read_settings
from mobile_sam.everything.config import EverythingConfig

RANKINGS = ("predicted_iou", "stability_score", "product")
"""What the masks of a picture are ranked by, of which the first 10, 100 and 1000 count; product: of the two others."""

MAX_MASKS = (10, 100, 1000)
"""Average recall is that of so many masks of a picture, the first by rank."""

RECALLS = tuple(f"AR@{num_masks}" for num_masks in MAX_MASKS)


@dataclass(frozen=True)
class EverythingProtocol(Config):
    """Masks of everything against ground truth: how many of the annotated objects are found.

    Attributes:
        name: unique in a run.
        source: whose protocol it follows, and what there is to say of that; "" for ours.
        config: how masks are made; they come as COCO's run lengths whatever its output_mode.
        rank_by: one of RANKINGS.
        partner_iou: of the baseline's masks those count as found again that have an IoU of at least this with a mask.
        area_bins: of the annotated areas, by rising limit, the last without.

    Raises:
        ValueError: a value that is not among those above.
    """

    name: str
    source: str = ""
    config: EverythingConfig = field(default_factory=EverythingConfig)
    rank_by: str = "predicted_iou"
    partner_iou: float = 0.8
    area_bins: tuple[AreaBin, ...] = COCO_BINS

    def __post_init__(self) -> None:
        check_choice(self.name, "rank_by", self.rank_by, RANKINGS)
        value = self.partner_iou
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"protocol {self.name!r}: partner_iou must be above 0 and at most 1, got {value!r}")
        check_bins(self.name, self.area_bins)
        object.__setattr__(self, "config", replace(self.config, output_mode="coco_rle"))

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a plain mapping, those of the config among them."""
        values = super().to_json()
        del values["config"]
        made = {name: value for name, value in self.config.to_json().items() if name != "output_mode"}
        return {"name": values.pop("name"), "source": values.pop("source"), **made, **values}


def with_everything_settings(protocol: EverythingProtocol, settings: Sequence[str]) -> EverythingProtocol:
    """Change fields of a protocol or of its config by words; its name then tells what was changed.

    Raises:
        ValueError: a word that is no setting, an unknown field, one that comes twice, or a value that it cannot have.

    >>> with_everything_settings(EverythingProtocol("exact"), ["points_per_side=16", "rank_by=product"]).name
    'exact points_per_side=16 rank_by=product'
    """
    of_config = {known.name: str(known.type) for known in fields(EverythingConfig) if known.metadata}
    del of_config["output_mode"]
    values, words = read_settings(settings, {**of_config, "rank_by": "str", "partner_iou": "float"})
    config = replace(protocol.config, **{name: values.pop(name) for name in of_config if name in values})
    return replace(protocol, name=" ".join([protocol.name, *words]), config=config, **values)


def describe_everything(protocol: EverythingProtocol) -> str:
    """Say in a line what a protocol does.

    >>> describe_everything(EverythingProtocol("exact"))
    'exact, 32 x 32 points, predicted IoU above 0.88, stability at least 0.95, box NMS 0.7; ranked by predicted IoU'
    """
    config, ranked_by = protocol.config, _RANKED_BY[protocol.rank_by]
    side = config.points_per_side
    points = "points of its own" if side is None else f"{side} x {side} points"
    crops = f", {config.crop_n_layers} layers of crops" if config.crop_n_layers else ""
    return (
        f"{config.mode}, {points}{crops}, predicted IoU above {config.pred_iou_thresh:g}, stability at least "
        f"{config.stability_score_thresh:g}, box NMS {config.box_nms_thresh:g}; ranked by {ranked_by}"
    )


_RANKED_BY = {
    "predicted_iou": "predicted IoU",
    "stability_score": "stability",
    "product": "predicted IoU times stability",
}
