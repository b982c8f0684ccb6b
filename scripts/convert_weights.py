"""Convert the official MobileSAM checkpoint to the safetensors file in the wheel.

    python scripts/convert_weights.py mobile_sam.pt src/mobile_sam/weights/mobile_sam.safetensors

Checks the checkpoint's sha256, drops the classification head that SAM never uses (`image_encoder.head`,
`image_encoder.norm_head`), keeps every other key and value as it is, and writes where it came from into the file's
metadata. Deterministic: the same checkpoint gives the same bytes. Needs the `torch` extra.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from mobile_sam.build_sam import UNUSED_PREFIXES
from mobile_sam.core.files import atomic_path
from mobile_sam.core.weights import BUNDLED, read_safetensors_header, sha256_of_file


def sort_header(path: Path) -> None:
    """Rewrite the header's metadata in sorted order, in place: the library writes it in a random one.

    The same entries take the same number of bytes, so no offset moves.
    """
    header, data_start = read_safetensors_header(path)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(data_start - 8)
    if len(text) != data_start - 8:
        raise SystemExit(f"the header of {path} changed its length: {data_start - 8} -> {len(text)}")
    with open(path, "r+b") as file:
        file.seek(8)
        file.write(text)


def convert(checkpoint: Path, output: Path) -> None:
    """Write `output` from the official `checkpoint`; raises SystemExit if that is another file."""
    found = sha256_of_file(checkpoint)
    if found != BUNDLED.source_sha256:
        raise SystemExit(f"{checkpoint} has sha256 {found}, expected the official {BUNDLED.source_sha256}")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    kept = {key: value.contiguous() for key, value in state.items() if not key.startswith(UNUSED_PREFIXES)}
    metadata = {
        "format": "pt",
        "source": BUNDLED.source_url,
        "source_sha256": BUNDLED.source_sha256,
        "licence": BUNDLED.licence,
        "authors": "MobileSAM: Zhang et al. 2023; SAM: Kirillov et al. 2023; TinyViT: Wu et al. 2022",
        "removed": ", ".join(prefix.rstrip(".") for prefix in UNUSED_PREFIXES),
    }
    with atomic_path(output) as partial:
        save_file(kept, partial, metadata=metadata)
        sort_header(partial)
    print(f"{output}: {len(kept)} tensors, {output.stat().st_size:,} bytes, sha256 {sha256_of_file(output)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the official mobile_sam.pt")
    parser.add_argument("output", type=Path, help="the safetensors file to write")
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.output)
