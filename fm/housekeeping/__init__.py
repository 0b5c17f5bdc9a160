"""What may be deleted of RUNs, comparisons and this machine's cache, and what never is: listed first, then done."""
