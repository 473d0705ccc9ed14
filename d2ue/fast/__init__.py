"""The same computations, faster: CPU kernels, captured CUDA steps, number formats. Imports nothing of d2ue but its errors."""
