"""Pictures and volumes as arrays: reading, preparing, comparing, and pure functions of them."""
