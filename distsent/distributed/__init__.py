"""How workers communicate: the interface, the launchers that start them, one file per transport."""
