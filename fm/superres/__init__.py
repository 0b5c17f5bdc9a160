"""Super-resolution: what is trained alike, beside which baselines, and what the paper says of it (Lipman et al. 2023,
section 6.2)."""
