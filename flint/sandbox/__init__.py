"""What a laptop lacks: embedded PostgreSQL and Valkey, a demo backend, demo data, and their supervisor."""
