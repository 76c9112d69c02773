"""The standard around a pilot's model: the same files in every pilot.

Packages import one way, in the order in which data flows: settings, pilot, simulate, store, data,
tracking, pipeline, control, serving, cli.
"""

__version__ = "0.1.0"
