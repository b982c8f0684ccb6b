import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Whether ONNX Runtime sends anything depends on the machine as well, so that the test looks at what is promised to it:
# the switch as it finds it when it is imported, here by a module in its place.
SEES_THE_SWITCH = """
import os
print("at import:", os.environ.get("ORT_DISABLE_TELEMETRY"))
def disable_telemetry_events():
    print("events off")
"""


@pytest.mark.parametrize(
    ("switch", "seen"),
    [(None, "at import: 1\nevents off\n"), ("0", "at import: 0\n"), ("1", "at import: 1\nevents off\n")],
)
def test_onnx_runtime_is_told_to_report_to_nobody_unless_its_user_wants_it_to(tmp_path: Path, switch, seen):
    (tmp_path / "onnxruntime.py").write_text(SEES_THE_SWITCH)
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"PYTHONPATH": str(tmp_path)} | ({} if switch is None else {"ORT_DISABLE_TELEMETRY": switch})
    code = "from mobile_sam.engines.ort_module import onnxruntime_module; onnxruntime_module()"
    run = subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60, stdout=subprocess.PIPE)
    assert run.stdout.decode() == seen


def test_every_module_that_imports_onnx_runtime_goes_through_the_one_that_tells_it():
    package = Path(__file__).parents[2] / "src" / "mobile_sam"
    texts = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
    importing = {
        name for name, text in texts.items() if re.search(r"^ +(import|from) onnxruntime\b", text, re.MULTILINE)
    }
    assert {name for name in importing if "onnxruntime_module()" not in texts[name]} == set()
    assert {
        name for name, text in texts.items() if re.search(r"^(import|from) onnxruntime\b", text, re.MULTILINE)
    } == set()
    assert "engines/ort_module.py" in importing
