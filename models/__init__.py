"""What runs: transformer shapes, workloads and plans, kernels, and the techniques that arrange them."""
