r"""The optional second stage: the distilled student again, with prompts in the loop (EdgeSAM, arXiv 2312.06660).

A box or a click first, then clicks where the mask is wrong; the teacher's masks are the target, and the decoder is
trained along at a low rate.

Command:   mobile-sam distill train recipes/second_stage.py --data 'sa_0000{00..09}.tar' --embeddings embeddings \
               --set start_from=mobilesam/student.safetensors -o mobilesam-stage2
Data:      the pictures and embeddings of the first stage.
Steps:     5 epochs x 110,000 / 16 = 34,000, each with 16 pictures x 8 prompts x 3 rounds through the decoder.
Hours:     not known; the decoder's share is larger than the encoder's. docs/training.md tells how to measure a step.
Expected:  EdgeSAM reports 81.6 -> 83.5 (box) and 63.7 -> 68.0 (point) mIoU on SA-1K for TinyViT with this stage.
Run by us: NO, for want of SA-1B and a GPU. The objective is that of recipes/finetune.py, which was run.

EdgeSAM's numbers are kept where they were published: 5 epochs, batch 16, 1e-4 to 1e-5, 5 x BCE + 5 x dice.
"""

from mobile_sam.distill.config import TrainConfig

RECIPE = TrainConfig(
    student="vit_t",
    objective="prompted",
    mask_targets="teacher",
    prompts_per_picture=8,
    num_clicks=2,
    epochs=5,
    batch_size=16,
    lr=1e-4,
    min_lr_factor=0.1,
    warmup_steps=500,
    ema_decay=0.9995,
    freeze_batchnorm=True,
    precision="bf16",
    num_workers=8,
    num_held_out=200,
    log_every=100,
    checkpoint_every=1000,
    validate_every=3000,
)
