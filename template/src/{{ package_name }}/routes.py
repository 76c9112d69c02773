# Yours, and optional: what the service answers beside the standard's own routes, always below /team/. Each
# says which scope a caller's token needs, and runs apart from the decisions, so that it cannot hold them up.
"""This pilot's own routes, read when `pilot serve` starts."""

from harness.serving.team import Route, Serving


def routes(serving: Serving) -> list[Route]:
    """The routes; one that cannot be served keeps the service from starting."""
    own: list[Route] = []
    # An example that works in any pilot: the fields whose groups are compared for fairness.
    # own.append(Route("GET", "/groups", lambda: serving.contract.groups, scope="decide"))
    return own
