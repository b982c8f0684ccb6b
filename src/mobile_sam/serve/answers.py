"""Masks as what is sent: numbers and run lengths, outlines or PNG, ready for JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import Embedding
from mobile_sam.core.mask_checks import tight_rectangle
from mobile_sam.core.masks import mask_to_polygons
from mobile_sam.core.rle import rle_to_window, runs_to_rle, window_to_runs
from mobile_sam.serve.schemas import CountsFormat, Output
from mobile_sam.serve.service import TokenPrediction


def json_bytes(value: Any) -> bytes:
    """Write JSON without spaces; NaN and Infinity, which JSON does not have, are an error of ours."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def mask_answers(prediction: TokenPrediction, output: Output, counts_format: CountsFormat) -> list[dict[str, Any]]:
    """Describe the masks of one object, as `schemas.MaskAnswer`.

    Args:
        prediction: with masks (M, H, W) bool.
        output: the form of the masks.
        counts_format: the form of run lengths.
    """
    rows = zip(prediction.masks, prediction.iou_predictions.tolist(), prediction.mask_tokens, strict=True)
    return [_mask_answer(mask, score, token, output, counts_format) for mask, score, token in rows]


def _mask_answer(
    mask: NDArray[np.bool_], score: float, token: int, output: Output, counts_format: CountsFormat
) -> dict[str, Any]:
    x, y, width, height = tight_rectangle(mask)
    window = mask[y : y + height, x : x + width]
    answer = {"token": token, "score": score, "area": int(np.count_nonzero(window)), "bbox": [x, y, width, height]}
    if output == "rle":
        image_hw = (mask.shape[0], mask.shape[1])
        answer["rle"] = _rle(window_to_runs(window, (x, y), image_hw), image_hw, counts_format)
    elif output == "polygons":
        answer["polygons"] = [(polygon + np.array([x, y], np.float32)).tolist() for polygon in mask_to_polygons(window)]
    else:
        answer["png"] = base64.b64encode(_png(mask)).decode("ascii")
    return answer


def _rle(runs: NDArray[np.int64], image_hw: tuple[int, int], counts_format: CountsFormat) -> dict[str, Any]:
    if counts_format == "plain":
        return {"size": list(image_hw), "counts": runs.tolist()}
    return dict(runs_to_rle(runs, image_hw))


def _png(mask: NDArray[np.bool_]) -> bytes:
    """(H, W) bool as an 8-bit grey PNG, 0 and 255."""
    import cv2

    is_done, encoded = cv2.imencode(".png", mask.view(np.uint8) * np.uint8(255))
    assert is_done
    return encoded.tobytes()


def found_answer(record: Mapping[str, Any], counts_format: CountsFormat) -> dict[str, Any]:
    """Describe a mask of everything, as `schemas.FoundAnswer`, from a record with COCO's compressed run lengths.

    SAM's records say the last column minus the first for the width of a box; here it is COCO's, one more.
    """
    rle = record["segmentation"]
    if counts_format == "plain":
        image_hw, corner_xy, window = rle_to_window(rle)
        rle = _rle(window_to_runs(window, corner_xy, image_hw), image_hw, counts_format)
    x, y, width, height = record["bbox"]
    return {
        "rle": rle,
        "bbox": [x, y, width + 1, height + 1],
        "area": record["area"],
        "predicted_iou": record["predicted_iou"],
        "stability_score": record["stability_score"],
        "point": record["point_coords"][0],
    }


def npy_bytes(features: NDArray[np.float32]) -> bytes:
    """Write features (1, 256, h, w) float32 as an .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(features), allow_pickle=False)
    return buffer.getvalue()


def embedding_facts(embedding_id: str, embedding: Embedding) -> dict[str, Any]:
    """Say of which picture and model an embedding is, the part that answers have in common."""
    height, width = embedding.image_hw
    return {"id": embedding_id, "width": width, "height": height, "model_id": embedding.model_id}
