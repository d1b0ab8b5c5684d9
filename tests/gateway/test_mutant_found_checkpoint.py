from __future__ import annotations

import pytest

from billing.models import GatewayProcess
from tests.gateway import wire
from tests.gateway.customers import chat, customer
from tests.stack import Stack, until

pytestmark = pytest.mark.usefixtures("committed")


def test_a_call_that_no_backend_has_accepted_has_no_checkpoint_and_would_be_free(stack: Stack) -> None:
    alice = customer()
    with wire.begun(stack.webs[0], alice.secret, chat("[demo: hang_before]")):
        (hold,) = until(lambda: alice.holds)
        until(lambda: stack.backend.entries(str(hold.pk)))  # It has been sent.
        beat = GatewayProcess.objects.get(pk=hold.owner).beat
        until(lambda: GatewayProcess.objects.get(pk=hold.owner).beat > beat + 1)
        (hold,) = alice.holds
        assert (hold.checkpoint_input_tokens, hold.checkpoint_output_tokens) == (None, None)
