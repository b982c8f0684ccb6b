"""Pictures with objects: annotation files in their several forms, prompts drawn from masks, embeddings on disk."""
