"""Scales that features of testbeds are measured on."""


def ramp(value: float, zero: float, one: float) -> float:
    """0 at `zero`, 1 at `one`, linear between them and constant beyond; either may be the larger."""
    return min(1.0, max(0.0, (value - zero) / (one - zero)))
