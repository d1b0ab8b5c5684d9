"""allauth's OpenID Connect, as strict as the standard wants it, and calm when the provider is not.

allauth asks the provider for its addresses outside of what it guards, does not look at signatures of tokens that it
fetched itself, and sends no nonce.
"""
