"""`pilot-update`: brings a pilot to the version of the template that this is a part of.

The pilot's `pilot update` fetches the template, and starts this from the version that is wanted: an updater
of an old release never runs the update to a new one. docs/decisions/0018-the-updater.md says why it is so.
"""
