"""Convert the official MobileSAM checkpoint to the safetensors file in the wheel.

    python scripts/convert_weights.py mobile_sam.pt src/mobile_sam/weights/mobile_sam.safetensors

Checks the checkpoint's sha256, drops the classification head that SAM never uses (`image_encoder.head`,
`image_encoder.norm_head`), keeps every other key and value as it is, and writes where it came from into the file's
metadata. Deterministic: the same checkpoint gives the same bytes. Needs the `torch` extra.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mobile_sam.checkpoint_files import UNUSED_PREFIXES, save_state_dict_file
from mobile_sam.core.weights import BUNDLED, sha256_of_file


def convert(checkpoint: Path, output: Path) -> None:
    """Write `output` from the official `checkpoint`; raises SystemExit if that is another file."""
    found = sha256_of_file(checkpoint)
    if found != BUNDLED.source_sha256:
        raise SystemExit(f"{checkpoint} has sha256 {found}, expected the official {BUNDLED.source_sha256}")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    kept = {key: value for key, value in state.items() if not key.startswith(UNUSED_PREFIXES)}
    metadata = {
        "format": "pt",
        "source": BUNDLED.source_url,
        "source_sha256": BUNDLED.source_sha256,
        "licence": BUNDLED.licence,
        "authors": "MobileSAM: Zhang et al. 2023; SAM: Kirillov et al. 2023; TinyViT: Wu et al. 2022",
        "removed": ", ".join(sorted(prefix.rstrip(".") for prefix in UNUSED_PREFIXES)),
    }
    save_state_dict_file(kept, output, metadata)
    print(f"{output}: {len(kept)} tensors, {output.stat().st_size:,} bytes, sha256 {sha256_of_file(output)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the official mobile_sam.pt")
    parser.add_argument("output", type=Path, help="the safetensors file to write")
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.output)
