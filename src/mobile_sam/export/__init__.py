"""Exports of the networks to other runtimes."""
