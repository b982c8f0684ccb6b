"""What a project's labelling configuration says: which regions to answer with, and where a task keeps its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

MAX_CONFIG_CHARACTERS = 1_000_000
OUTPUT_TAGS = ("BrushLabels", "Brush", "PolygonLabels", "Polygon", "RectangleLabels", "Rectangle")
"""Tags whose regions can be answered; of several in a configuration the first in this order is taken."""


@dataclass(frozen=True)
class Output:
    """Where answers go.

    Attributes:
        kind: the region's type in Label Studio: "brushlabels", "polygonlabels", "rectanglelabels", or these without
            "labels".
        from_name: name of the control tag.
        to_name: name of the image tag.
        data_key: under which a task's data holds the picture.
        labels: that the control tag offers; none if they come with each task, or the tag has none.
    """

    kind: str
    from_name: str
    to_name: str
    data_key: str
    labels: tuple[str, ...]

    def label_for(self, wanted: str | None) -> str | None:
        """Choose the label of a region: the prompt's own if the tag has it or lists none, else the tag's first."""
        if not self.kind.endswith("labels"):
            return None
        if wanted is not None and (wanted in self.labels or not self.labels):
            return wanted
        return self.labels[0] if self.labels else None


def read_config(label_config: str, to_name: str | None = None, kind: str | None = None) -> Output:
    """Find the tag to answer with.

    Args:
        label_config: the XML of the project's labelling configuration.
        to_name: name of the image that the answer is for; None for the first that has a control tag.
        kind: one of "brush", "polygon" and "rectangle"; None for the first in the order of OUTPUT_TAGS.

    Raises:
        ValueError: no XML, too long, with a DTD, or without a control tag that fits.
    """
    root = _parsed(label_config)
    images = {image.get("name", ""): image.get("value", "").removeprefix("$") for image in root.iter("Image")}
    wanted = [tag for tag in OUTPUT_TAGS if kind is None or tag.removesuffix("Labels").lower() == kind]
    for tag in wanted:
        for control in root.iter(tag):
            target, name = control.get("toName", ""), control.get("name", "")
            if name and images.get(target) and to_name in (None, target):
                labels = tuple(label.get("value", "") for label in control.iter("Label") if label.get("value"))
                return Output(tag.lower(), name, target, images[target], labels)
    raise ValueError(_why_none(wanted, images, to_name))


def _why_none(wanted: Sequence[str], images: dict[str, str], to_name: str | None) -> str:
    what = "an <Image>" if to_name is None else f"the <Image> {to_name!r}"
    return (
        f"the labelling configuration must have {what} with a name and a value, and one of {', '.join(wanted)} whose "
        f"toName is that name; it has images {sorted(images)}"
    )


def _parsed(label_config: str) -> ElementTree.Element:
    """Parse XML that others wrote: bounded, and without entities of its own, which may grow without bounds."""
    if len(label_config) > MAX_CONFIG_CHARACTERS:
        raise ValueError(
            f"the labelling configuration must have at most {MAX_CONFIG_CHARACTERS} characters, got {len(label_config)}"
        )
    if "<!DOCTYPE" in label_config or "<!ENTITY" in label_config:
        raise ValueError("the labelling configuration must not have a DOCTYPE or entities of its own; leave them out")
    try:
        return ElementTree.fromstring(label_config)
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"the labelling configuration must be XML: {error}") from error
