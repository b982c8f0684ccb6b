"""The wheel that is made once the page is built."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LIMIT_BYTES = 50_000_000


def test_the_wheel_brings_the_page_and_stays_under_50_megabytes(page_files, tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("mobile_sam-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    built = {path for path in page_files.files if not path.startswith("models/")}
    assert "index.html" in built
    assert {f"mobile_sam/serve/page/{path}" for path in built} <= set(names)
    assert [name for name in names if name.endswith(".safetensors")] == ["mobile_sam/weights/mobile_sam.safetensors"]
    assert wheel.stat().st_size < LIMIT_BYTES
