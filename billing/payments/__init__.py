"""Money that comes in through Stripe, and what follows a payment.

Stripe says what happened to a payment; nothing here believes a message about it. Whatever rings (a webhook, the page to
which a customer returns, a sweep) makes us ask Stripe for the object, and what it says decides. Only `billing.ledger`
moves balances.
"""
