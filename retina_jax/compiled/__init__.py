"""What a compiled step will need of devices that are not here."""
