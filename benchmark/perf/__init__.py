"""`python -m bdbench.perf`: how fast the engine trains and evaluates, beside a plain loop and transformers.Trainer.

Measures the engine; nothing of the suite imports it.
"""
