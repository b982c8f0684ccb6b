"""Decoupled, semi-coupled and coupled distillation at equal compute: the MobileSAM paper's table 2 in miniature.

The paper (arXiv 2306.14289) compares coupled distillation of a ViT-B on 128 GPUs with decoupled distillation on two, at
mIoU 0.72 and 0.75. Here a fresh student of one million parameters at 512 px learns from the bundled MobileSAM on a few
hundred pictures, each objective for as many steps as take one core the time of 240 decoupled ones (on the machine that
they were counted on, a step took 0.73, 2.72 and 2.65 seconds). The learning rates are the best of those that were tried
for each objective on a fraction of the run (docs/log.md).

Command:   mobile-sam distill embed PICTURES --teacher mobile_sam --out embeddings
           python benchmarks/distillation.py --data PICTURES --embeddings embeddings --work runs
           (or one: mobile-sam distill train recipes/comparison_cpu.py --variant coupled --data ... -o coupled)
Hardware:  a CPU core with bf16, 4 GB of memory.
Disk:      2 MiB a picture for the embeddings, 150 MB a run.
Hours:     4 minutes a run.
Result:    docs/training.md, benchmarks/results/distillation.csv.
Run by us: yes, three seeds of each.
"""

from dataclasses import replace

from mobile_sam.distill.config import TrainConfig

DECOUPLED = TrainConfig(
    student="vit_t_1m",
    input_side=512,
    objective="decoupled",
    max_steps=240,
    batch_size=8,
    lr=6e-3,
    warmup_steps=24,
    ema_decay=0.98,
    precision="bf16",
    num_workers=1,
    num_threads=1,
    num_held_out=20,
    log_every=10,
    checkpoint_every=1000,
    validate_every=40,
    tensorboard=False,
)

RECIPES = {
    "decoupled": DECOUPLED,
    "semi-coupled": replace(DECOUPLED, objective="semi-coupled", lr=2e-3, max_steps=65, validate_every=11),
    "coupled": replace(
        DECOUPLED, objective="coupled", lr=6e-4, encoder_lr_factor=10.0, max_steps=66, validate_every=11
    ),
}
