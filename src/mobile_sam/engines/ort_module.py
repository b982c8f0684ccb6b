"""ONNX Runtime without its telemetry: the only place that imports it first."""

from __future__ import annotations

import os
from typing import Any

TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"


def onnxruntime_module() -> Any:
    """Import ONNX Runtime, which from 1.29 on reports to its maker unless told not to before it is imported.

    Whoever wants it to sets ORT_DISABLE_TELEMETRY=0. On Windows, where the variable is not read, events are turned off
    after the import, so that the one of the import itself remains.
    """
    os.environ.setdefault(TELEMETRY_SWITCH, "1")
    import onnxruntime

    if os.environ[TELEMETRY_SWITCH] == "1":
        onnxruntime.disable_telemetry_events()
    return onnxruntime
