"""What a test of the whole way needs: a copy of the pilot, its service, a consumer, a source that fails.

The fixtures in ``harness.testing.fixtures`` are there in every test of a pilot, without an import:

    def test_a_decision_arrives(serve, consumer, held_back):
        with serve(**consumer.settings) as service:
            answer = service.decide(held_back(1)[0])
            assert consumer.received(1)[0]["decision"] == answer["decision"]

Nothing of this belongs to a service: serving never imports it.
"""

from harness.testing.consumer import Consumer, Received
from harness.testing.proxy import Proxy
from harness.testing.scratch import Ended, PilotCopy, scratch_copy
from harness.testing.service import Service
from harness.testing.waiting import until

__all__ = ["Consumer", "Ended", "PilotCopy", "Proxy", "Received", "Service", "scratch_copy", "until"]
