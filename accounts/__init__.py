"""Who the customer is: users, the accounts they belong to, and the rate limits of an account's tier."""
