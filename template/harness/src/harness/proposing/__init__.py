"""An update of the template as a pull or merge request, made by CI."""

from harness.proposing.forge import Forge, Proposal, here
from harness.proposing.propose import propose

__all__ = ["Forge", "Proposal", "here", "propose"]
