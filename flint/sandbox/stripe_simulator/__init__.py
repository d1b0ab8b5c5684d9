"""The Stripe simulator: a process on loopback that speaks Stripe's wire format, so that top-ups work on a laptop.

    python -m flint.sandbox.stripe_simulator --port 9200 --data stripe.sqlite3

The product talks to it with the ordinary `stripe` package and is told of payments by ordinary, signed webhooks; only
the address and the keys differ. Nothing here moves money, and `livemode` is false in everything it says.

store      one SQLite file: objects, events and their deliveries, saved answers, what is due later
wire       form-encoded parameters in, errors out
objects    how each object looks
customers, checkout, intents, refunds, disputes, balance    what happens to them
events     tells what happened, and posts it to the webhook
api        which path of Stripe's API does what; idempotency keys
pages      the Checkout page and the control page
"""
