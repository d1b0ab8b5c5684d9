"""The OpenAI-compatible /v1: from the bearer key to the settled call."""
