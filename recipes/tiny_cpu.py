"""A student of one million parameters at 512 px, distilled from the bundled MobileSAM on a laptop's CPU.

Command:   mobile-sam distill embed PICTURES --teacher mobile_sam --out embeddings
           mobile-sam distill train recipes/tiny_cpu.py --data PICTURES --embeddings embeddings -o tiny
Data:      any folder of photographs; a few hundred show that it works, for a good student take all you have.
Hardware:  two CPU cores, better with bf16 (AVX-512 or AMX), and 4 GB of memory.
Disk:      2 MiB a picture for the embeddings, 150 MB for the run.
Hours:     0.5 s a step of 8 pictures on two cores of an AMD EPYC (Zen 5): 20 epochs over 300 pictures take seven
           minutes, over 10,000 pictures four hours. The embeddings take 0.6 s a picture once.
Expected:  mIoU 0.44 with the teacher's masks after 480 steps on 290 pictures (docs/training.md).
Run by us: as the variants of recipes/comparison_cpu.py and recipes/ablation.py, which differ in length and threads.
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
