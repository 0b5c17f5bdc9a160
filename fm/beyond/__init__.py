"""What came after the paper, beside FM w/ OT on the same data: objectives, couplings, laws of times, grids, solvers in
one table."""
