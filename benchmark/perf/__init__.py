"""`python -m bdbench.perf`: how fast the engine trains and evaluates, beside a plain loop and transformers.Trainer.

It measures the engine. Nothing of the suite imports it.
"""
