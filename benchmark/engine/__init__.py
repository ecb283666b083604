"""One classifier: texts to word pieces, batches, the training and the prediction loop, kernels, pre-trained models.

No attack, no defense, no task; no file but the model's own.
"""
