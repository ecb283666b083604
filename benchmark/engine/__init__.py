"""One classifier: encoding, batches, the training and the prediction loop, kernels, pre-trained models and their tokenizers.

No attack, no defense, no task; no file but the model's own.

What makes the two loops fast:

- bf16 autocast where the machine multiplies bf16 in hardware (`precision`);
- texts tokenized once, into one tensor (`encoding`);
- batches of texts of similar length, each padded to its own longest text (`batches`);
- in training, a word-embedding matrix cut down to the pieces that occur (`embeddings`), and PyTorch's fused AdamW;
- dropout, attention and linear layers made for CPU cores (`kernels`);
- no statement inside a loop that waits for the device.
"""
