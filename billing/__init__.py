"""What an account has, owes and paid: catalogue, prices, wallet, holds, usage, ledger."""
