"""How a base model is quantized as it loads: linears, experts, FP8."""
