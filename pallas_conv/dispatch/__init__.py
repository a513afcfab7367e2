"""What runs, and why: preferences, plans of products, records of hardware runs, and their explanation."""
