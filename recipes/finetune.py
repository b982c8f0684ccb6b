"""Fine-tuning the bundled MobileSAM on your own masks: what `mobile-sam distill finetune` does, to copy and change.

Command:   mobile-sam distill finetune OWN.json --val OTHERS.json --general PHOTOGRAPHS -o tuned
           with this file's settings instead of the built-in ones: --recipe recipes/finetune.py
Data:      COCO or LVIS JSON, SA-1B, or a folder with images/ and masks/; tens of pictures to begin with.
Hardware:  two CPU cores and 4 GB for the decoder alone; a GPU for --trains all.
Disk:      some 150 MB for each checkpoint, of which two are kept.
Hours:     some minutes for tens of pictures and the decoder alone.
Result:    docs/training.md, "Fine-tuning on your own pictures".
Run by us: with other settings (lr 1e-4, 40 steps), see there; these defaults not.
"""

from dataclasses import replace

from mobile_sam.distill.finetune import FINE_TUNING

RECIPE = replace(
    FINE_TUNING["decoder"],  # or "all", for which the encoder learns at a tenth of the rate
    lr=3e-5,
    epochs=10,
    patience=6,  # validations without a better mIoU; the start is the first of them
    validate_every=10,
    checkpoint_every=50,
)
