"""Trace the ONNX graphs that ship in the wheel from the PyTorch modules and the bundled weights.

    python scripts/export_graphs.py [FOLDER]

By default they go where the package looks for them. Needs the `export` extra.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_sam import build_sam_vit_t
from mobile_sam.core.weights import bundled_folder, bundled_weights_path
from mobile_sam.export.graphs import export_graphs

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=bundled_folder())
    arguments = parser.parse_args()
    sam = build_sam_vit_t("mobile_sam")
    for path in export_graphs(sam, bundled_weights_path(), arguments.folder, with_any_size=True):
        print(f"{path}: {path.stat().st_size:,} bytes")
