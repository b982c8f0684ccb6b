"""Validation: protocols that name every choice, run side by side over models, with reports to check them by."""
