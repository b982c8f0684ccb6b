"""Bulk: one of a few tasks over very many pictures, on one machine or a cluster, and nothing done twice or lost."""
