"""Responses that a training run elsewhere had scored here, and which of them people are asked about."""
