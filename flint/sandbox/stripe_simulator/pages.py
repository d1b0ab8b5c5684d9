"""The pages: Checkout, where a customer pays, and what surrounds every page. No JavaScript, no files from elsewhere."""

from __future__ import annotations

from html import escape

from flint.sandbox.stripe_simulator import intents
from flint.sandbox.stripe_simulator.store import Json

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
