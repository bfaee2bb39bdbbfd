"""The checks. To import this package is to declare them all."""

from revo.conformance.checks import ending, failing, heard, living, taking, timing

__all__ = ["ending", "failing", "heard", "living", "taking", "timing"]
