"""Decides what runs, and says why: preferences, plans of products, records of hardware runs, and their explanation."""
