"""Segment everything: proposals from a grid of points, selection, and records as SAM gives them."""
