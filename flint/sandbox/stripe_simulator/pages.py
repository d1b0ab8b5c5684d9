"""The pages: Checkout, where a customer pays, and what surrounds every page. No JavaScript, no files from elsewhere."""

from __future__ import annotations

import time
from html import escape

from aiohttp import web

from flint.sandbox.stripe_simulator import balance, events, intents
from flint.sandbox.stripe_simulator import checkout as sessions
from flint.sandbox.stripe_simulator.store import Json, Store

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

STYLE = """
:root { color-scheme: light dark; --ink: #1a1f36; --soft: #697386; --paper: #f6f8fa; --card: #fff; --line: #e3e8ee;
  --strong: #4f46e5; --on-strong: #fff; --warn: #fff4cc; --on-warn: #5c4400; --bad: #b3093c; --good: #0b7a43; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ee; --soft: #a3acba; --paper: #14161d; --card: #1d2029;
  --line: #363b49; --strong: #8b85ff; --on-strong: #14161d; --warn: #4a3a00; --on-warn: #ffe9a8; --bad: #ff8fa8;
  --good: #6fd6a0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
.banner { background: var(--warn); color: var(--on-warn); padding: .6rem 1rem; text-align: center; font-weight: 600; }
main { max-width: 28rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
main.wide { max-width: 72rem; }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.amount { font-size: 2.25rem; font-weight: 700; margin: .25rem 0; }
.soft { color: var(--soft); } .bad { color: var(--bad); } .good { color: var(--good); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; margin: 1rem 0; }
.alert { border-color: var(--bad); color: var(--bad); }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .35rem .5rem; vertical-align: top;
  border-bottom: 1px solid var(--line); } td.number, th.number { text-align: right; }
.scroll { overflow-x: auto; }
button, select, input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--soft);
  border-radius: .4rem; padding: .5rem .75rem; min-height: 2.75rem; max-width: 100%; }
button { cursor: pointer; } button:focus-visible, a:focus-visible, select:focus-visible, input:focus-visible {
  outline: 3px solid var(--strong); outline-offset: 2px; }
.pay { width: 100%; background: var(--strong); border-color: var(--strong); color: var(--on-strong); font-weight: 600; }
form { margin: .5rem 0; } .row { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
.row label { flex: 1 1 8rem; } .row select, .row input { flex: 1 1 8rem; } a { color: var(--strong); }
code { font-size: .85em; overflow-wrap: anywhere; } .tight button, .tight select, .tight input { min-height: 2.25rem;
  padding: .2rem .5rem; } .tight form { display: inline-block; margin: .1rem; } 
  .tight input[type=number] { width: 6.5rem; }
"""


def money(cents: int, currency: str) -> str:
    whole, rest = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}{'$' if currency == 'usd' else ''}{whole:,}.{rest:02d}" + (
        "" if currency == "usd" else f" {escape(currency.upper())}"
    )


def document(title: str, content: str, *, wide: bool = False) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
        f'<div class="banner" role="note">Simulated: no real money moves</div>'
        f"<main{' class=wide' if wide else ''}>{content}</main></body></html>"
    )


def html(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", headers=HEADERS)


def form(action: str, content: str) -> str:
    return f'<form class="row" method="post" action="{escape(action)}">{content}</form>'


def checkout(session: Json, lines: list[Json], *, refusal: str = "") -> str:
    """What the customer is asked to pay, and every way in which that can end."""
    currency, address = session["currency"], f"/c/pay/{session['id']}"
    rows = "".join(_row(line["description"], line["amount_subtotal"], currency) for line in lines)
    if tax := session["total_details"]["amount_tax"]:
        rows += _row("Tax", tax, currency)
    total = money(session["amount_total"], currency)
    email = session["customer_details"]["email"] or "No e-mail address was given."
    alert = f'<p class="card alert" role="alert">{escape(refusal)}</p>' if refusal else ""
    return document(
        f"Pay {total}",
        f'<h1>Checkout</h1><p class="amount">{total}</p><p class="soft">{escape(email)}</p>{alert}'
        f'<div class="card"><table><caption class="soft">What you pay for</caption>{rows}</table></div>'
        + form(f"{address}/pay", f'<button class="pay">Pay {total} with card 4242</button>')
        + "<h2>Or let it go differently</h2>"
        + form(
            f"{address}/decline",
            f'<label for="code">The bank says</label><select id="code" name="code">{options(list(intents.DECLINES))}'
            "</select><button>Decline the card</button>",
        )
        + form(f"{address}/authenticate", "<button>Pay with a card that needs 3-D Secure</button>")
        + form(f"{address}/later", _LATER)
        + form(f"{address}/abandon", "<button>Go back without paying</button>"),
    )


_LATER = """<label for="outcome">Bank debit that</label><select id="outcome" name="outcome">
<option value="control">waits for the control page</option><option value="succeed">succeeds after</option>
<option value="fail">fails after</option></select><label for="seconds">Seconds</label>
<input id="seconds" type="number" name="seconds" value="10" min="0" max="86400"><button>Pay later</button>"""


def _row(name: str, cents: int, currency: str) -> str:
    return f'<tr><td>{escape(name)}</td><td class="number">{money(cents, currency)}</td></tr>'


def options(values: list[str]) -> str:
    return "".join(f'<option value="{escape(value)}">{escape(value.replace("_", " "))}</option>' for value in values)


def authentication(session: Json) -> str:
    address, total = f"/c/authenticate/{session['id']}", money(session["amount_total"], session["currency"])
    return document(
        "3-D Secure",
        f"<h1>3-D Secure</h1><p>Your bank asks whether you pay <strong>{total}</strong>.</p>"
        + form(address, '<button class="pay" name="passed" value="yes">Yes, it is me</button>')
        + form(address, '<button name="passed" value="no">Fail the check</button>'),
    )


def ended(session: Json | None) -> str:
    if session is None:
        return document("Not found", "<h1>There is no such page</h1><p>The link is wrong or the data was deleted.</p>")
    said = "was paid or is on its way" if session["status"] == "complete" else "has expired"
    link = session["success_url"] if session["status"] == "complete" else session["cancel_url"]
    back = f'<p><a href="{escape(link.replace("{CHECKOUT_SESSION_ID}", session["id"]))}">Back</a></p>' if link else ""
    return document("Checkout has ended", f"<h1>This payment {said}</h1>{back}")


def receipt(charge: Json) -> str:
    """What Stripe itself would confirm to the customer."""
    back = f"<p>{money(charge['amount_refunded'], charge['currency'])} was refunded.</p>"
    return document(
        "Receipt",
        f'<h1>Receipt of the payment service</h1><p class="amount">{money(charge["amount"], charge["currency"])}</p>'
        f'<p class="soft">Paid on {time.strftime("%Y-%m-%d %H:%M", time.gmtime(charge["created"]))} UTC</p>'
        f"{back if charge['amount_refunded'] else ''}<p><code>{escape(charge['id'])}</code></p>",
    )


ROWS_SHOWN = 30


def control(store: Store) -> str:
    """Everything that can happen after a payment, and what can go wrong on the way."""
    charges, found = store.select("charge"), ""
    intents_shown = store.select("payment_intent")[:ROWS_SHOWN]
    for intent in intents_shown:
        own = [charge for charge in charges if charge["payment_intent"] == intent["id"]]
        found += _payment(store, intent, own)
    methods = [method for method in store.select("payment_method", {"type": "card"}) if method["customer"]]
    cards = "".join(_saved_card(store, method) for method in methods[:ROWS_SHOWN])
    told = "".join(_event(store, event) for event in store.select("event")[:ROWS_SHOWN])
    available = money(balance.available(store), "usd")
    nothing = '<tr><td class="soft">Nothing yet.</td></tr>'
    return document(
        "Simulated Stripe",
        f'<h1>Simulated Stripe</h1><p class="soft">What happens after a payment, and what goes wrong.</p>'
        f"<h2>Payments</h2>{_table(found or nothing)}<h2>Saved cards</h2>{_table(cards or nothing)}"
        f"<h2>Balance at Stripe: {available}</h2>"
        + form("/control/payout", _number("amount", "Cents, empty: all") + "<button>Pay out to our bank</button>")
        + "".join(_paid_out(payout) for payout in store.select("payout", {"status": "paid"})[:ROWS_SHOWN])
        + form("/control/fee", _number("amount", "Cents", "200") + "<button>Take a fee</button>")
        + form("/control/adjustment", _number("amount", "Cents", "100") + "<button>Correct the balance</button>")
        + form("/control/days", _number("days", "Days", "31") + "<button>Let days pass</button>")
        + _faults(store)
        + f"<h2>Events</h2>{_table(told or nothing)}",
        wide=True,
    )


def _table(rows: str) -> str:
    return f'<div class="card scroll tight"><table>{rows}</table></div>'


def _number(name: str, label: str, value: str = "") -> str:
    return f'<input type="number" name="{name}" min="0" value="{value}" placeholder="{label}" aria-label="{label}">'


def _button(action: str, label: str, **hidden: str) -> str:
    fields = "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in hidden.items())
    return form(f"/control/{action}", f"{fields}<button>{label}</button>")


def _payment(store: Store, intent: Json, charges: list[Json]) -> str:
    buttons = ""
    if intent["status"] == "processing":
        buttons += _button("settle", "Succeeds", payment_intent=intent["id"], outcome="succeed")
        buttons += _button("settle", "Fails", payment_intent=intent["id"], outcome="fail")
    for charge in charges:
        if charge["status"] == "succeeded":
            buttons += _paid(store, charge)
    amount = money(intent["amount"], intent["currency"])
    return (
        f'<tr><td class="number">{amount}</td><td>{escape(intent["status"].replace("_", " "))}<br>'
        f'<code class="soft">{escape(intent["id"])}</code></td><td>{buttons}</td></tr>'
    )


def _paid(store: Store, charge: Json) -> str:
    id_, buttons = charge["id"], ""
    if not charge["refunded"] and not charge["disputed"]:
        hidden = f'<input type="hidden" name="charge" value="{id_}">'
        buttons += form("/control/refund", f"{hidden}{_number('amount', 'Cents')}<button>Refund</button>")
        buttons += _button("dispute", "Dispute", charge=id_) + _button("dispute", "Inquiry", charge=id_, inquiry="yes")
        buttons += _button("fraud-warning", "Fraud warning", charge=id_)
    for refund in store.select("refund", {"charge": id_, "status": "succeeded"}):
        said = f"Fail the refund of {money(refund['amount'], refund['currency'])}"
        buttons += _button("fail-refund", said, refund=refund["id"])
    for dispute in store.select("dispute", {"charge": id_}):
        buttons += f'<p class="soft">Dispute: {escape(dispute["status"].replace("_", " "))}</p>'
        if dispute["status"].endswith(("needs_response", "under_review")):
            actions = ("win", "lose") if dispute["balance_transactions"] else ("withdraw", "win", "lose")
            buttons += "".join(_button(each, each.capitalize(), dispute=dispute["id"]) for each in actions)
    return buttons


def _paid_out(payout: Json) -> str:
    said, hidden = f"the payout of {money(payout['amount'], payout['currency'])}", {"payout": payout["id"]}
    fails = _button("return-payout", f"Fail {said}", status="failed", **hidden)
    return fails + _button("return-payout", f"Cancel {said}", status="canceled", **hidden)


def _saved_card(store: Store, method: Json) -> str:
    behaviour = store.notes(method["id"]).get("behaviour", "")
    chosen = {"": "pays", intents.AUTHENTICATE: "needs authentication"}
    chosen |= {code: f"declines: {code.replace('_', ' ')}" for code in intents.DECLINES}
    listed = "".join(
        f'<option value="{value}"{" selected" if value == behaviour else ""}>{text}</option>'
        for value, text in chosen.items()
    )
    change = (
        f'<input type="hidden" name="payment_method" value="{method["id"]}">'
        f'<select name="behaviour" aria-label="Off-session, the card">{listed}</select><button>Set</button>'
    )
    return (
        f'<tr><td>Card {escape(method["card"]["last4"])}<br><code class="soft">{escape(method["customer"])}</code></td>'
        f"<td>{form('/control/card', change)}</td></tr>"
    )


def _faults(store: Store) -> str:
    tax = str(store.switch(sessions.TAX_SWITCH, 0))
    kinds, calls = options(list(events.FAULTS)), options(["rate_limit", "error_after_commit", "lose_answer", "hang"])
    event, call = (store.switch(name) or {} for name in ("event_fault", "call_fault"))
    left = {name: f"{each.get('count', 0)} left" for name, each in (("event", event), ("call", call))}
    return (
        "<h2>Faults</h2><div class=card>"
        + form(
            "/control/events",
            f'<select name="kind" aria-label="Events">{kinds}</select>{_number("count", "How many", "1")}'
            f"{_number('seconds', 'Seconds of a delay', '30')}<button>Next events</button>"
            f'<span class="soft">{left["event"]}</span>',
        )
        + form(
            "/control/calls",
            f'<select name="kind" aria-label="Calls">{calls}</select>{_number("count", "How many", "1")}'
            f"{_number('seconds', 'Seconds of a hang', '30')}"
            '<input name="path" placeholder="POST /v1/refunds" aria-label="Only calls that begin so">'
            f'<button>Next calls</button><span class="soft">{left["call"]}</span>',
        )
        + form(
            "/control/refunds-fail",
            _number("seconds", "Seconds, empty: never") + "<button>Let refunds fail after</button>",
        )
        + form(
            "/control/tax", _number("milli_percent", "Tax: 19000 is 19 %", tax) + "<button>Set the tax rate</button>"
        )
        + "</div>"
    )


def _event(store: Store, event: Json) -> str:
    states = ", ".join(
        f"{each['state']} {each['answer']} ({each['attempts']})" for each in events.deliveries(store, event["id"])
    )
    return (
        f"<tr><td>{escape(event['type'])}<br><code class=soft>{escape(event['id'])}</code></td>"
        f"<td>{escape(states) or 'not delivered'}</td><td>{_button('replay', 'Replay', event=event['id'])}</td></tr>"
    )
