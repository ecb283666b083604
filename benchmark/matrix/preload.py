"""What a worker's process imports before it has work, while the run is still being planned. Nothing else is in here."""

from bdbench.collector import keep_all, no_garbage

with no_garbage():
    import transformers.modeling_utils  # noqa: F401 (all model classes stand on it)
    from transformers import AutoModelForSequenceClassification  # noqa: F401

    import bdbench.matrix.station  # noqa: F401
keep_all()
