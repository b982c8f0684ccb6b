import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("switch", "is_left"), [(None, False), ("0", True)])
def test_onnx_runtime_reports_to_nobody_unless_its_user_wants_it_to(tmp_path, switch, is_left):
    """Its telemetry leaves the number of its session in the folder of temporary files."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"TMPDIR": str(tmp_path)} | ({} if switch is None else {"ORT_DISABLE_TELEMETRY": switch})
    code = "from mobile_sam.engines import make_engine; make_engine('onnxruntime')"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert bool(list(tmp_path.glob(".ses*"))) == is_left
