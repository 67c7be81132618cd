"""Reward models as plain PyTorch: no Django, no Celery, no database."""
