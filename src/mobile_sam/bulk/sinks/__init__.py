"""Formats of results, each a small module that knows no other."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from mobile_sam.bulk.sinks.base import CollectedSink, PictureSink, SinkSettings


@dataclass(frozen=True)
class Format:
    """A format of masks.

    Attributes:
        module: in this package.
        class_name: in the module.
        is_collected: whether it is a `CollectedSink`, else a `PictureSink`.
        help: what it writes, for people.
    """

    module: str
    class_name: str
    is_collected: bool
    help: str


FORMATS = {
    "coco": Format("coco", "CocoSink", True, "coco.json, all pictures in one file"),
    "sa1b": Format("sa1b", "Sa1bSink", False, "sa1b/KEY.json for each picture, as SA-1B has them"),
    "yolo": Format("yolo", "YoloSink", False, "yolo/labels/KEY.txt with polygons for each picture, and yolo/data.yaml"),
    "labelme": Format("labelme", "LabelmeSink", False, "labelme/KEY.json with polygons for each picture"),
    "label-studio": Format("label_studio", "LabelStudioSink", True, "label_studio.json to import, with brush masks"),
    "png": Format("png_masks", "PngMasksSink", False, "masks/KEY/0.png, 1.png, ... for each picture"),
    "parquet": Format("parquet", "ParquetSink", True, "parquet/*.parquet, a row for each mask, with COCO RLE"),
}
"""Formats of masks by name."""

EMBEDDING_FORMATS = {
    "shards": "embeddings/*.tar of float16, as `distill train` reads them",
    "safetensors": "embeddings/KEY.safetensors for each picture",
}
"""Formats of embeddings by name, see `mobile_sam.bulk.embedding_sinks`."""


def make_sink(name: str, settings: SinkSettings) -> PictureSink | CollectedSink:
    """Make what writes a format.

    Raises:
        ValueError: an unknown name.
        MissingDependencyError: the format needs a package that is not installed.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; expected one of {', '.join(FORMATS)}")
    known = FORMATS[name]
    sink = getattr(import_module(f"{__name__}.{known.module}"), known.class_name)(settings)
    assert isinstance(sink, CollectedSink if known.is_collected else PictureSink)
    return sink
