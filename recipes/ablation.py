r"""Batch size and iterations: the MobileSAM paper's table 4, and the same question at the size of a laptop.

The paper (arXiv 2306.14289, table 4; mIoU with SAM's masks, about 100,000 pictures):

    variant                  batch   epochs   iterations   mIoU
    paper-batch4-epochs2         4        2       50,000   0.7057
    paper-batch8-epochs4         8        4       50,000   0.7286
    paper-batch8-epochs8         8        8      100,000   0.7447

Command:   mobile-sam distill train recipes/ablation.py --variant paper-batch8-epochs4 --data 'sa_0000{00..09}.tar' \
               --embeddings embeddings -o batch8-epochs4
           python benchmarks/distillation.py --groups ablation --data PICTURES --embeddings embeddings --work runs
Hardware:  the paper's variants one GPU for up to a day each; the tiny ones two CPU cores for minutes.
Disk:      215 GiB for the paper's, 2 MiB a picture for the tiny ones.
Result:    of the tiny ones in docs/training.md and benchmarks/results/distillation.csv.
Run by us: the tiny variants, three seeds each. The paper's: NO (no SA-1B, no ViT-H, no GPU).
"""

from dataclasses import replace
from pathlib import Path

from mobile_sam.distill.recipe import load_recipe

HERE = Path(__file__).parent
PAPER = load_recipe(HERE / "mobilesam_sa1b_1pct.py")
TINY = load_recipe(HERE / "comparison_cpu.py", "decoupled")

RECIPES = {
    "paper-batch4-epochs2": replace(PAPER, batch_size=4, epochs=2),
    "paper-batch8-epochs4": replace(PAPER, batch_size=8, epochs=4),
    "paper-batch8-epochs8": PAPER,
    "tiny-batch4-steps240": replace(TINY, batch_size=4),
    "tiny-batch8-steps240": TINY,
    "tiny-batch8-steps480": replace(TINY, max_steps=480, validate_every=80),
}
