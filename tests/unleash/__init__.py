"""A real Unleash server, for the tests of remote control; ``install.sh`` here installs it."""
