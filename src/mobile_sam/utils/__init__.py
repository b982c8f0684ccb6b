"""Helpers under the module paths that code written for SAM imports."""
