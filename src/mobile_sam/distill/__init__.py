"""Decoupled distillation of SAM's image encoder into a small one, and fine-tuning (MobileSAM, arXiv 2306.14289)."""
