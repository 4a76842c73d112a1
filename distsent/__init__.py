"""Distributed fine-tuning of text classifiers with Horovod, torch and transformers."""

__version__ = "0.1.0"
