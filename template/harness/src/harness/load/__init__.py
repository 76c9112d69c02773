"""Requests at a rate of their own, from processes of their own, and what came of each: open loop."""
