"""Do the tests notice? `python -m tests.mutants` takes one safeguard after the other out of a copy of the product."""

from tests.mutants.ledger import LEDGER
from tests.mutants.payments import PAYMENTS
from tests.mutants.road import ROAD
from tests.mutants.usage import USAGE

MUTANTS = (*LEDGER, *USAGE, *ROAD, *PAYMENTS)
