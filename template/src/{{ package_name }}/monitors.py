# Yours, and optional: signals that nobody but you can think of. governance/monitoring.yaml declares each of
# them with `measure: own`, and says there from when on it is too much and what happens then.
"""This pilot's own signals, measured by `pilot monitor` once for each window."""

from harness.monitor import Measured, Window


def signals(window: Window) -> list[Measured]:
    """One Measured for each signal declared with `measure: own`; a value of None says: too little to tell."""
    measured: list[Measured] = []
    # An example that works in any pilot: how many records were asked about more than once. A caller that
    # tries again and again looks like this, and so does one that tries until the answer pleases.
    # made = window.decisions()
    # repeated = made.height - made["record_key"].n_unique()
    # measured.append(Measured("repeated-requests", repeated / max(made.height, 1), made.height))
    return measured
