"""Programs that use pallas_conv the way a user would: nothing here is imported by the library."""
