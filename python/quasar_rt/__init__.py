"""Vision Transformers on small FPGA boards."""
