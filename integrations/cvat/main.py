"""The two functions that nuclio calls: once for each worker, and for each request of CVAT."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from model_handler import ModelHandler

from mobile_sam.core.errors import ImageReadError


def init_context(context: Any) -> None:
    """Load the model."""
    context.user_data.model = ModelHandler()
    context.logger.info(f"MobileSAM is ready on {context.user_data.model.engine_name}")


def handler(context: Any, event: Any) -> Any:
    """Encode the picture of a request, {"image": base64, ...}, and answer {"blob": base64 of the embedding}.

    The blob is float32, little-endian, (1, 256, 64, 64). CVAT's page decodes it, for as many prompts as its user makes.
    A request that is wrong, and a picture that cannot be read, are answered with status 400 and {"error": why}.
    """
    try:
        features = context.user_data.model.features(_picture(event.body))
    except (ImageReadError, _WrongRequest) as error:
        context.logger.warn(f"refused: {error}")
        return _answer(context, {"error": str(error)}, 400)
    return _answer(context, {"blob": base64.b64encode(features.astype("<f4").tobytes()).decode("ascii")}, 200)


class _WrongRequest(ValueError):
    """A request that is not as CVAT sends it."""


def _picture(body: Any) -> bytes:
    """Read the picture's file out of a request."""
    try:
        asked = json.loads(body) if isinstance(body, (bytes, str)) else body
        return base64.b64decode(asked["image"], validate=True)
    except (ValueError, TypeError, KeyError, binascii.Error) as error:
        raise _WrongRequest(f"the body must be JSON with a picture as base64 in 'image': {error!r}") from error


def _answer(context: Any, content: dict[str, str], status: int) -> Any:
    return context.Response(body=json.dumps(content), headers={}, content_type="application/json", status_code=status)
