"""What every test with PyTorch begins with."""

import os
import sys

# The CUDA libraries that torch wants are empty files here: bound when called, which a CPU never does.
sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)
import torch  # noqa: E402

# Its threads spin while others compute.
torch.set_num_threads(1)
