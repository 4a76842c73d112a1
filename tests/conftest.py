"""What holds for all tests: toy sizes want one thread each, and no test reaches for the network."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: two threads on a tiny tensor are slower than one
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
