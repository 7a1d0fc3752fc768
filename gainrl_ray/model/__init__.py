"""The policy as a transformers model in one process: loading, log-probabilities, hidden states. No ray here."""
