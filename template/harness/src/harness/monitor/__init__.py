"""Live decisions beside the reference: windows, measures, signals, and what is done about them.

A team's own signals are measured in ``monitors.py`` of its package, with ``Measured`` and ``Window``.
"""

from harness.monitor.own import Measured, Window

__all__ = ["Measured", "Window"]
