"""The errors that callers may want to catch by name."""

from __future__ import annotations


class ImageReadError(ValueError):
    """A picture cannot be read: not an image, damaged, empty, too large, or of a kind without a rule.

    It is a `ValueError`, so code that guards against bad input in general needs no second clause.
    """


class ImageTooLargeError(ImageReadError):
    """A picture has more pixels than the reader allows."""


class WeightsError(ValueError):
    """A weights file is not what was asked for: wrong checksum, missing or unexpected keys, or wrong shapes."""


class MissingDependencyError(ImportError):
    """A feature needs a package that the plain installation leaves out.

    The message names the feature, the package and the extra that brings it.

    >>> advice = "sam_model_registry needs PyTorch; run: pip install 'mobile-sam[torch]'"
    >>> str(MissingDependencyError(advice, name="torch"))
    "sam_model_registry needs PyTorch; run: pip install 'mobile-sam[torch]'"
    """
