"""The pages of billing, one module each: what the account has, used, did and owes."""
