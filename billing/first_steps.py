"""What a new account still has to do, until its first call was seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from accounts.models import Account
from billing import funds, refusals
from billing.periods import HOUR
from billing.refusals import FreeCalls

CREATE_KEY, FIRST_CALL = 2, 3


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """`troubles` are calls of the last hour that came to nothing, which is why no call is seen."""

    current: int
    funded: bool
    troubles: list[FreeCalls]

    @property
    def version(self) -> str:
        """Changes with what the page shows."""
        return f"{self.current}.{int(self.funded)}.{sum(trouble.calls for trouble in self.troubles)}"


def of(account: Account, *, has_key: bool, now: datetime) -> FirstSteps:
    funded = funds.wallet_of(account).available > 0
    if not has_key:
        return FirstSteps(CREATE_KEY, funded, [])
    troubles = refusals.of(account, since=now - HOUR, until=now + HOUR)
    return FirstSteps(FIRST_CALL, funded, troubles)
