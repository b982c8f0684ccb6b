"""A student of one million parameters at 512 px, distilled from the bundled MobileSAM on a laptop's CPU.

Command:   mobile-sam distill embed PICTURES --teacher mobile_sam --out embeddings
           mobile-sam distill train recipes/tiny_cpu.py --data PICTURES --embeddings embeddings -o tiny
Pictures:  any folder of photographs; a few hundred show that it works, for a good student take all you have.
"""

from mobile_sam.distill.config import TrainConfig

RECIPE = TrainConfig(
    student="vit_t_1m",
    input_side=512,
    epochs=20,
    batch_size=8,
    lr=6e-3,
    warmup_steps=50,
    precision="bf16",
    num_workers=1,
    log_every=10,
    checkpoint_every=100,
    validate_every=100,
)
