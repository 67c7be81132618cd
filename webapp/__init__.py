"""Caliper's web application. It never imports torch, transformers or datasets."""

__version__ = "0.9.0"
