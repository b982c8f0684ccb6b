r"""A MobileSAM in a fraction of the steps: large batch, bf16, compiled, cached embeddings, one or more GPUs.

Command:   mobile-sam distill embed 'sa_0000{00..09}.tar' --teacher sam_vit_h_4b8939.pth --precision bf16 \
               --out embeddings
           torchrun --nproc-per-node 8 --no-python mobile-sam distill train recipes/mobilesam_fast.py \
               --data 'sa_0000{00..09}.tar' --embeddings embeddings -o mobilesam-fast
           With fewer GPUs the batch is taken in parts: --set accumulate=8 (BatchNorm then sees the parts).
Data:      as recipes/mobilesam_sa1b_1pct.py; for more of SA-1B name more tars, or all with --fraction 0.1.
Disk:      215 GiB for each 1 %.
Steps:     16 epochs x 110,000 / 256 = 6,900.
Hours:     docs/training.md; the loader must deliver 2 MiB of embedding and a 1 MB JPEG for each picture.
Expected:  at least the paper's 0.7447 (twice its epochs); not known before someone has run it.
Run by us: NO. No SA-1B, no ViT-H and no GPU were at hand.

The learning rate follows the square root of the batch size from 1e-3 at 8, as is usual for AdamW: 1e-3 x sqrt(256 / 8),
rounded down, for EdgeSAM's 1.25e-2 at 64 (docs/training.md) is linear and higher.
"""

from mobile_sam.distill.config import TrainConfig

RECIPE = TrainConfig(
    student="vit_t",
    objective="decoupled",
    epochs=16,
    batch_size=256,
    lr=5e-3,
    weight_decay=0.05,
    warmup_steps=600,
    ema_decay=0.998,
    precision="bf16",
    compile=True,
    num_workers=12,
    num_held_out=200,
    log_every=20,
    checkpoint_every=200,
    validate_every=700,
)
