"""Telling somebody: once a day while a trouble lasts, and never lost when nobody can be reached."""

from harness.alerts.alerts import FOLDER, Alert, Delivered, Outbox

__all__ = ["FOLDER", "Alert", "Delivered", "Outbox"]
